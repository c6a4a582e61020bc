"""The reference of the settings, which editors read too, is the model's, and whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batchrec_dagster.config.json_schema import build_declaration_schema, render_declaration_schema
from batchrec_dagster.config.new_declaration import SCHEMA_FILE

SCHEMA = build_declaration_schema()


def test_the_file_that_editors_read_is_the_models() -> None:
    assert SCHEMA_FILE.read_text() == render_declaration_schema(), (
        "the settings have changed: make schema"
    )


def test_every_setting_is_described() -> None:
    def list_properties(part: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, property_schema in schema["properties"].items():
            yield f"{part}.{name}", property_schema

    parts = {"": SCHEMA, "attributes": SCHEMA["properties"]["attributes"], **SCHEMA["$defs"]}
    settings = [pair for part, schema in parts.items() for pair in list_properties(part, schema)]
    assert len(settings) > 50
    assert [name for name, schema in settings if not schema.get("description")] == []
