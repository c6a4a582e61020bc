"""The JSON schema of a defs.yaml, with which editors complete and check the file.

Editors read the copy in this folder, `defs.schema.json`. A test checks that the copy is up to date.
"""

from __future__ import annotations

import json
from typing import Any

from batchrec_dagster.config import COMPONENT_TYPE, Pipeline

# Dagster's own keys next to the attributes.
_OF_DAGSTER = {
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


def build_declaration_schema() -> dict[str, Any]:
    """Return the schema as parsed JSON."""
    attributes = Pipeline.model_json_schema()
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
            **_OF_DAGSTER,
        },
        "$defs": defs,
    }


def render_declaration_schema() -> str:
    """Return the text of defs.schema.json."""
    return json.dumps(build_declaration_schema(), indent=2, ensure_ascii=False) + "\n"
