"""The JSON schema of a defs.yaml, by which editors complete and check it: made from the model.

It is kept in `defs.schema.json` beside this module, where editors find it; a test holds it against
what is made here.
"""

from __future__ import annotations

import json
from typing import Any

from batchrec_dagster.pipeline import COMPONENT_TYPE
from batchrec_dagster.pipeline.component import BatchRecommendations

# What Dagster takes beside the attributes.
_DAGSTERS_OWN = {
    "template_vars_module": {
        "type": "string",
        "description": "A Python module whose functions templates can use.",
    },
    "requirements": {
        "type": "object",
        "description": "What has to be there, such as env: the names of environment variables.",
    },
    "post_processing": {
        "type": "object",
        "description": "What Dagster does to the assets afterwards, such as giving them tags.",
    },
}
# What Dagster's model has for a default that is another field's own.
_UNSET = "__DAGSTER_UNSET_DEFAULT__"


def declaration_schema() -> dict[str, Any]:
    """The schema, as JSON has it."""
    model = BatchRecommendations.get_model_cls()
    assert model is not None
    attributes = _plain(model.model_json_schema())
    defs = attributes.pop("$defs")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pipeline of batch recommendations",
        "type": "object",
        "additionalProperties": False,
        "required": ["type", "attributes"],
        "properties": {
            "type": {
                "const": COMPONENT_TYPE,
                "description": "What is declared here.",
            },
            "attributes": {**attributes, "description": "The pipeline's settings."},
            **_DAGSTERS_OWN,
        },
        "$defs": defs,
    }


def declaration_schema_text() -> str:
    """The schema, as its file has it."""
    return json.dumps(declaration_schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(schema: Any) -> Any:
    """Without titles that repeat the names, and without what the loader refuses anyway: a text in
    place of a part of the declaration."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _plain(one) for name, one in value.items()}
        if key in ("properties", "$defs")
        else _plain(value)
        for key, value in schema.items()
        if not (key == "title" or (key == "default" and value == _UNSET))
    }
    parts = [one for one in made.get("anyOf", []) if "$ref" in one]
    if parts and {"type": "string"} in made["anyOf"]:
        others = [one for one in made["anyOf"] if one != {"type": "string"}]
        # Beside a $ref of its own a description would not count.
        made["allOf" if len(others) == 1 else "anyOf"] = others
        if len(others) == 1:
            del made["anyOf"]
    return made
