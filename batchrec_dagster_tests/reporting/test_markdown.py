"""Data in Dagster's Markdown: how numbers and long texts are written."""

from __future__ import annotations

from batchrec_dagster.reporting.markdown import escape, unescape
from batchrec_dagster_tests.guard.hostile import HOSTILE


def test_what_was_escaped_can_be_read_again() -> None:
    for text in HOSTILE:
        assert unescape(escape(text)) == " ".join(text.split())


def test_numbers_and_long_texts() -> None:
    assert escape("a|b <i>\n*c*") == r"a\|b \<i> \*c\*"
    assert escape("the setting on_bad_rows: 1.5 > 1") == "the setting on_bad_rows: 1.5 > 1"
    assert escape(None) == ""
    assert escape(0.123456) == "0.1235"
    assert escape("é" * 100, 60) == "é" * 59 + "…"
