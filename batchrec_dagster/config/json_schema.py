"""The JSON schema of a defs.yaml, by which editors complete and check it.

Editors read its copy in `defs.schema.json` in this folder; a test compares the two.
"""

from __future__ import annotations

import json
from typing import Any

import dagster as dg

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.declaration import Declaration

# Dagster's own keys next to the attributes.
_DAGSTERS_OWN = {
    "template_vars_module": {
        "type": "string",
        "description": "A Python module whose functions templates can use.",
    },
    "requirements": {
        "type": "object",
        "description": "What must be set, such as env: the names of environment variables.",
    },
    "post_processing": {
        "type": "object",
        "description": "Changes to the assets afterwards, such as tags.",
    },
}
# Dagster's placeholder for a default that the model itself computes.
_UNSET = "__DAGSTER_UNSET_DEFAULT__"


class _Declaration(Declaration, dg.Resolvable):
    """The attributes of the component, with templates allowed."""


def build_declaration_schema() -> dict[str, Any]:
    """The schema as parsed JSON."""
    attributes = _simplify(_Declaration.model().model_json_schema())
    defs = attributes.pop("$defs")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pipeline of batch recommendations",
        "type": "object",
        "additionalProperties": False,
        "required": ["type", "attributes"],
        "properties": {
            "type": {"const": COMPONENT_TYPE, "description": "The component."},
            "attributes": {**attributes, "description": "The pipeline's settings."},
            **_DAGSTERS_OWN,
        },
        "$defs": defs,
    }


def render_declaration_schema() -> str:
    return json.dumps(build_declaration_schema(), indent=2, ensure_ascii=False) + "\n"


def _simplify(schema: Any) -> Any:
    """The schema without titles, which repeat names, and without strings in place of a block.

    The loader refuses such strings anyway.
    """
    if isinstance(schema, list):
        return [_simplify(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    simplified: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" or (key == "default" and value == _UNSET):
            continue
        if key in ("properties", "$defs"):
            simplified[key] = {name: _simplify(entry) for name, entry in value.items()}
        else:
            simplified[key] = _simplify(value)
    alternatives = simplified.get("anyOf", [])
    is_block = any("$ref" in alternative for alternative in alternatives)
    if is_block and {"type": "string"} in alternatives:
        blocks = [alternative for alternative in alternatives if alternative != {"type": "string"}]
        # A description next to a bare $ref would be ignored.
        simplified["allOf" if len(blocks) == 1 else "anyOf"] = blocks
        if len(blocks) == 1:
            del simplified["anyOf"]
    return simplified
