"""Tests that any text stays text in Dagster's Markdown, in a terminal, and in the page's data."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.hostile import ADDRESS, CONTROLS, HOSTILE, MARKDOWN
from batchrec_dagster_tests.guard.seams.page import (
    as_data,
    as_markdown,
    as_terminal,
)

pytestmark = pytest.mark.attack

# This space has no width. A URL with it is no URL.
WORD_JOINER = "\u2060"
WILD = st.text() | st.text("\\`*_[]<>|&~#!()-+=. 1:/@w\"'h")


def add_examples(test: Callable[[str], None]) -> Callable[[str], None]:
    for text in HOSTILE:
        test = example(text)(test)
    return test


def read_paragraph(markdown: str) -> str:
    """Return the text of a paragraph, and require that the paragraph has nothing but text."""
    begin, inline, end = MARKDOWN.parse(markdown)
    assert (begin.type, end.type) == ("paragraph_open", "paragraph_close")
    assert inline.children is not None
    assert {token.type for token in inline.children} <= {"text", "text_special"}
    text = "".join(token.content for token in inline.children)
    assert not ADDRESS.search(text)
    return text.replace(WORD_JOINER, "")


@add_examples
@given(WILD)
def test_dagster_shows_a_text_as_it_is(text: str) -> None:
    line = " ".join(text.split()).replace(WORD_JOINER, "")
    # The Markdown parser replaces these characters.
    readable = line.replace("\0", "\ufffd")
    assert read_paragraph(f"x {as_markdown(text)}") == f"x {readable}".rstrip()
    if readable:
        assert read_paragraph(as_markdown(text)) == readable


@add_examples
@given(WILD)
def test_no_text_controls_a_terminal(text: str) -> None:
    shown = as_terminal(text)
    assert not CONTROLS.search(shown)
    assert "\n" not in shown
    if text.isascii() and text.isprintable():
        assert shown == text


@add_examples
@given(WILD)
def test_no_text_leaves_the_data_of_the_page(text: str) -> None:
    data = as_data([text])
    assert not {*"<>&\u2028\u2029"} & {*data}
    assert json.loads(data) == [text]
