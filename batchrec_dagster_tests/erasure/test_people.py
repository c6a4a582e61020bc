"""Ids are recognised in texts as whole words, however a text writes them."""

from __future__ import annotations

import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.erasure.people import People
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster_tests.hostile import HOSTILE

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    HOSTILE
)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("User 29 gets:", "User [erased] gets:"),
        ("'29,5,4.0,1500000000'", "'[erased],5,4.0,1500000000'"),
        ("1::29::5", "1::[erased]::5"),
        ("129, 290, a29, 29b, 2900", "129, 290, a29, 29b, 2900"),
        ("made 2026-11-29 10:29:29 UTC", "made 2026-11-29 10:29:29 UTC"),
        ("29", "[erased]"),
        ("", ""),
    ],
)
def test_a_number_is_a_whole_word_and_no_part_of_a_date(text: str, redacted: str) -> None:
    people = People.of(["29"])
    assert people.redact(text) == redacted
    assert people.is_mentioned(text) == (text != redacted)


def test_an_id_that_is_a_part_of_another_leaves_nothing_of_it() -> None:
    assert People.of(["ann", "ann@example.org"]).redact("to ann@example.org") == "to [erased]"


@given(IDS)
def test_an_id_is_found_as_python_markdown_html_and_json_write_it(user: str) -> None:
    people = People.of([user, "somebody else"])
    for text in (user, repr(user), json.dumps(user), escape(user), html.escape(user)):
        if text.strip():
            assert people.is_mentioned(f"first, {text} gets"), text
            assert not people.is_mentioned(people.redact(f"first, {text} gets"))


@given(
    st.sets(st.text("ab1-_ ", min_size=1, max_size=3), max_size=5), st.text("ab1-_ ,", max_size=9)
)
def test_no_id_is_overlooked(users: set[str], text: str) -> None:
    """Compared with looking for one id after the other."""
    mentioned = any(People.of([user]).is_mentioned(text) for user in users)
    assert People.of(users).is_mentioned(text) == mentioned
