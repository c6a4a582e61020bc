"""Tests that `batchrec new` quotes a file's text, and removes a declaration that does not load."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.config import new_declaration
from batchrec_dagster.config.templates import fill_in
from batchrec_dagster_tests.guard.builders import Project, write_ratings
from batchrec_dagster_tests.guard.tables.new_command import (
    list_leftovers,
    run_new,
    working_project,
)

__all__ = ["working_project"]


def test_a_declaration_that_does_not_load_is_deleted(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ratings(working_project.root / "ratings.csv")
    text = new_declaration._DECLARATION.replace("results: 25", "results: 0")
    monkeypatch.setattr(new_declaration, "_DECLARATION", text)
    code, output = run_new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert "recommendations.num_results: write a number from 1 to 500" in output
    assert list_leftovers(working_project) == []


@given(st.text() | st.text("{}%#'\"\\ \r\nx7[]"))
@settings(deadline=None)
def test_any_text_of_a_file_is_read_back(text: str) -> None:
    (line,) = new_declaration.format_block({"a": text})
    assert fill_in(yaml.safe_load(line)["a"], {}) == text
    written = f"a: {new_declaration.format_scalar(text)}  # comment"
    assert yaml.safe_load(written) == {"a": text}
