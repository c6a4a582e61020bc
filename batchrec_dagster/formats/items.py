"""The Items dataset: its Avro schema and the columns of its CSV file.

Source: Amazon Personalize developer guide, "Datasets and schemas" and "Items dataset".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batchrec_dagster.formats.interactions import ITEM_ID
from batchrec_dagster.formats.schemas import NAMESPACE

CREATION_TIMESTAMP = "CREATION_TIMESTAMP"

# What joins the values of a categorical cell that has several.
VALUE_SEPARATOR = "|"


def items_columns(*, created: bool, categories: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """The CSV's header, in the schema's order, as Personalize wants it."""
    return [ITEM_ID, *([CREATION_TIMESTAMP] if created else []), *categories, *numbers]


def items_schema(*, created: bool, categories: Sequence[str], numbers: Sequence[str]) -> str:
    """The Avro schema, as the JSON text that CreateSchema takes.

    Categories are categorical strings, numbers are doubles, and a cell of either may be empty.
    CREATION_TIMESTAMP is in epoch seconds and may not.
    """
    fields: list[dict[str, Any]] = [{"name": ITEM_ID, "type": "string"}]
    if created:
        fields.append({"name": CREATION_TIMESTAMP, "type": "long"})
    fields += [
        {"name": name, "type": ["null", "string"], "categorical": True} for name in categories
    ]
    fields += [{"name": name, "type": ["null", "double"]} for name in numbers]
    return json.dumps(
        {
            "type": "record",
            "name": "Items",
            "namespace": NAMESPACE,
            "fields": fields,
            "version": "1.0",
        }
    )
