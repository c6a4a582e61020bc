"""Tests that `batchrec new` and a run recognise the same in a file.

Declaring or leaving out recognised settings changes nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation

DELIMITERS = [",", ";", "\t", "|", "::"]
START = 1_500_000_000
KNOWN_NAMES = {"user": "userId", "item": "item_id", "timestamp": "timestamp"}
OTHER_NAMES = {"user": "who", "item": "what", "timestamp": "when it was"}


@dataclass(frozen=True)
class Shape:
    """A file, its columns as a person would declare them, and whether the names are known."""

    text: str
    columns: Mapping[str, str | int]
    is_known: bool


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    delimiter = draw(st.sampled_from(DELIMITERS))
    ids = st.text("ab1,;|: '", min_size=1, max_size=5)
    texts = st.text('xy,;|": ', max_size=8)
    cells = {
        "user": ids,
        "item": ids,
        "timestamp": st.integers(START, START + 10**8).map(str),
        "rating": st.sampled_from(["1", "4,5", "3.5", ""]),
        "note": texts,
        "tags": st.just("a|b;c"),
    }
    optional = draw(st.lists(st.sampled_from(["rating", "note", "tags"]), unique=True))
    roles = draw(st.permutations(["user", "item", "timestamp", *optional]))
    rows = draw(st.lists(st.tuples(*(cells[role] for role in roles)), min_size=1, max_size=30))
    header = draw(st.sampled_from([KNOWN_NAMES, OTHER_NAMES, None]))
    lines = [[header.get(role, f"my {role}") for role in roles]] if header else []
    lines += [list(row) for row in rows]
    if delimiter == "::":
        text = "".join("::".join(cell.replace("::", "") for cell in line) + "\n" for line in lines)
    else:
        file = io.StringIO(newline="")
        is_quoted = draw(st.booleans())
        csv.writer(
            file,
            delimiter=delimiter,
            quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL,
            lineterminator="\n",
        ).writerows(lines)
        text = file.getvalue()
    columns: dict[str, str | int] = {
        role: header[role] if header else roles.index(role) + 1
        for role in ("user", "item", "timestamp")
    }
    return Shape(text, columns, is_known=header is KNOWN_NAMES)


@settings(deadline=None, max_examples=repeats(300, 12))
@given(shape=shapes(), names_are_given=st.booleans())
def test_new_declares_what_a_run_recognises(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, names_are_given: bool
) -> None:
    folder = tmp_path_factory.mktemp("shape")
    source = write_source(folder, shape.text)

    def read(ratings: Mapping[str, object]) -> list[tuple[str, str, int]]:
        block = {"on_bad_rows": "skip", **ratings, "source": source}
        return preparation.prepare(folder, {"ratings": block}).rows

    try:
        declared = preparation.recognise(folder, source, shape.columns if names_are_given else {})
        rows = read(declared)
    except preparation.UserError:
        return
    if isinstance(shape.columns["user"], str):
        # The columns' names are enough for a run.
        assert read({"columns": declared["columns"]}) == rows
    if shape.is_known and not names_are_given:
        # A run does not need to be told names that it recognises.
        assert read({}) == rows
    if names_are_given:
        # By position a run sees the same delimiter, whether or not it is declared.
        assert read({"columns": shape.columns}) == rows


THREE = {"user": 1, "item": 2, "timestamp": 3}


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        (f"u1;i1;{START}\nu2;i1;{START}\n", THREE, [("u1", "i1"), ("u2", "i1")]),
        (
            f"u1;i1;4,5;{START}\nu2;i1;3,5;{START}\n",
            {"user": 1, "item": 2, "timestamp": 4},
            [("u1", "i1"), ("u2", "i1")],
        ),
        (
            f"4,5;u1;i1;{START}\n3,5;u2;i1;{START}\n",
            {"user": 2, "item": 3, "timestamp": 4},
            [("u1", "i1"), ("u2", "i1")],
        ),
        (f"u1,i1,{START}\n", THREE, [("u1", "i1")]),
        (f"1,Horror|Thriller|Space,{START}\n", THREE, [("1", "Horror|Thriller|Space")]),
        (f'1,"a;b;c;d",{START}\n', THREE, [("1", "a;b;c;d")]),
        (
            f'"Alien, or; not";1;{START}\n"Up";2;{START}\n',
            THREE,
            [("Alien, or; not", "1"), ("Up", "2")],
        ),
        (
            f"shop|u1,i1,{START}\nshop|u2,i1,{START}\n",
            THREE,
            [("shop|u1", "i1"), ("shop|u2", "i1")],
        ),
        (
            f"who;what;time,of day\na;b;{START}\n",
            {"user": "who", "item": "what", "timestamp": "time,of day"},
            [("a", "b")],
        ),
    ],
)
def test_the_delimiter_is_seen_in_the_first_lines(
    tmp_path: Path, text: str, columns: Mapping[str, str | int], rows: list[tuple[str, str]]
) -> None:
    ratings = {"source": write_source(tmp_path, text), "columns": columns}
    interactions = preparation.prepare(tmp_path, {"ratings": ratings})
    assert [row[:2] for row in interactions.rows] == rows
