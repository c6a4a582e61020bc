"""Input lines of any kind: each that is not blank is one request, none is lost, none raises."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.data import batch_lines
from batchrec_dagster.local_personalize.data.batch_lines import (
    InputLine,
    parse_line,
    read_blocks,
    read_raw_lines,
)
from batchrec_dagster.local_personalize.recipes import RECIPES
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION, build_recipe_arn

USERS = RECIPES[build_recipe_arn(USER_PERSONALIZATION)]
REQUIRED = "Required fields for the provided recipe are userId"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def _read_requests(data: bytes) -> list[InputLine]:
    return [request for block in read_blocks(io.BytesIO(data), USERS) for request in block]


def test_blank_lines_marks_and_line_ends_are_ignored() -> None:
    data = b'\xef\xbb\xbf{"userId":"a"}\r\n\n \t\r\n{"userId":"b"}\n\n{"userId":"c"}'
    assert [request.content["userId"] for request in _read_requests(data)] == ["a", "b", "c"]
    assert _read_requests(b"") == _read_requests(b"\n\n") == _read_requests(b"\xef\xbb\xbf") == []
    assert (
        _read_requests(b"\n\xef\xbb\xbf{}")[0].problem == REQUIRED
    )  # only a file starts with a mark


@pytest.mark.parametrize(
    ("line", "echo"),
    [
        (b'{"userId":"caf\xe9"}', {}),
        ('{"userId":"a"}'.encode("utf-16"), {}),
        (b'{"userId":"a"', {}),
        (b'["userId"]', {}),
        (b'{"userId":"\\ud800"}', {}),
        (b'{"userId":Infinity}', {}),
        (b'{"userId":"a","n":' + b"9" * 5000 + b"}", {}),
        (b"[" * 100_000, {}),
        (b'{"userId":["a"]}', {"userId": ["a"]}),
        (b'{"USERID":"a"}', {"USERID": "a"}),
    ],
)
def test_invalid_lines(line: bytes, echo: dict[str, Any]) -> None:
    assert parse_line(line, USERS) == InputLine(echo, REQUIRED)


def test_ids_that_are_numbers_are_taken_as_text() -> None:
    assert parse_line(b'{"userId":5}', USERS).content == {"userId": "5"}
    for line in (b'{"userId":true}', b'{"userId":1.5}', b'{"userId":null}'):
        assert parse_line(line, USERS).problem == REQUIRED


def test_a_line_that_is_too_long_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 20)
    longest = b'{"userId":"' + b"x" * 7 + b'"}'
    assert len(longest) == 20
    for end in (b"\n", b""):
        data = b"\n".join([longest, b"x" * 21, longest, b"y" * 1000]) + end
        problems = [request.problem for request in _read_requests(data)]
        too_long = "The line is longer than 20 bytes"
        assert problems == [None, too_long, None, too_long]


def test_blocks_are_bounded_by_lines_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "LINES_AT_ONCE", 3)
    monkeypatch.setattr(batch_lines, "BYTES_AT_ONCE", 100)
    short = b'{"userId":"a"}\n'
    assert [len(block) for block in read_blocks(io.BytesIO(short * 7), USERS)] == [3, 3, 1]
    long = b'{"userId":"' + b"a" * 60 + b'"}\n'
    assert [len(block) for block in read_blocks(io.BytesIO(long * 5), USERS)] == [2, 2, 1]


@settings(deadline=None)
@given(data=st.binary())
def test_any_bytes_are_as_many_requests_as_lines(data: bytes) -> None:
    text = data.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in text.split(b"\n") if line.strip()]
    assert [line.rstrip(b"\n") for line in read_raw_lines(io.BytesIO(data)) if line] == lines
    requests = _read_requests(data)
    assert len(requests) == len(lines)
    for request in requests:
        json.dumps(request.content, allow_nan=False, ensure_ascii=False).encode()
        assert request.problem or request.content["userId"]


@settings(deadline=None)
@given(value=st.dictionaries(st.sampled_from(["userId"]), VALUES))
def test_any_json_is_a_request_or_has_a_problem(value: dict[str, Any]) -> None:
    request = parse_line(json.dumps(value).encode(), USERS)
    if request.problem is None:
        assert request.content["userId"] == str(value["userId"])
