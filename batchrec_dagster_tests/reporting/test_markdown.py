"""Data in Dagster's Markdown: they stay text, for the parser and for what looks for addresses."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from batchrec_dagster.reporting.markdown import (
    WORD_JOINER,
    escape,
    format_table,
    unescape,
)
from batchrec_dagster_tests.guard.hostile import HOSTILE

pytestmark = pytest.mark.attack

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# What mdast-util-gfm-autolink-literal, in Dagster's page, turns into links after parsing.
ADDRESS = re.compile(r"(https?://|www(?=\.))([-.\w]+)|[-.\w+]+@[-\w]+\.[-\w]", re.IGNORECASE)
WILD = st.text() | st.text("\\`*_[]<>|&~#!()-+=. 1:/@w\"'h")


def render_paragraph(markdown: str) -> str:
    """The text of one paragraph, after a check that it is nothing but text."""
    begin, inline, end = PARSER.parse(markdown)
    assert (begin.type, end.type) == ("paragraph_open", "paragraph_close")
    assert inline.children is not None
    assert {token.type for token in inline.children} <= {"text", "text_special"}
    text = "".join(token.content for token in inline.children)
    assert not ADDRESS.search(text)
    return text.replace(WORD_JOINER, "")


def add_examples(test: Callable[[str], None]) -> Callable[[str], None]:
    for text in HOSTILE:
        test = example(text)(test)
    return test


@add_examples
@given(WILD)
def test_data_are_shown_as_text(text: str) -> None:
    line = " ".join(text.split()).replace(WORD_JOINER, "")
    # The parser itself replaces these.
    readable = line.replace("\0", "\ufffd")
    assert render_paragraph(f"x {escape(text)}") == f"x {readable}".rstrip()
    if readable:
        assert render_paragraph(escape(text)) == readable
    assert unescape(escape(text)) == line


@given(WILD, WILD)
def test_no_cell_leaves_its_table(cell: str, other: str) -> None:
    tokens = PARSER.parse(format_table([cell, other], [[other, cell], [1, None]]))
    types = [token.type for token in tokens]
    assert types[0] == "table_open"
    assert types[-1] == "table_close"
    assert (types.count("th_open"), types.count("td_open")) == (2, 4)
    for token in tokens:
        assert {child.type for child in token.children or ()} <= {"text", "text_special"}


def test_numbers_and_long_texts() -> None:
    assert escape("a|b <i>\n*c*") == r"a\|b \<i> \*c\*"
    assert escape("the setting on_bad_rows: 1.5 > 1") == "the setting on_bad_rows: 1.5 > 1"
    assert escape(None) == ""
    assert escape(0.123456) == "0.1235"
    assert escape("é" * 100, 60) == "é" * 59 + "…"
    assert format_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"
