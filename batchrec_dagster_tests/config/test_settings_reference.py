"""The reference of the settings, which editors read too, is the model's, and whole."""

from __future__ import annotations

from batchrec_dagster.config.json_schema import build_declaration_schema, render_declaration_schema
from batchrec_dagster.config.new_declaration import SCHEMA_FILE

SCHEMA = build_declaration_schema()


def test_the_file_that_editors_read_is_the_models() -> None:
    assert SCHEMA_FILE.read_text() == render_declaration_schema(), (
        "the settings have changed: make schema"
    )
