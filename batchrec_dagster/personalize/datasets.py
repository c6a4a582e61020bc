"""The Interactions and Items datasets: Avro schemas, and the columns of the CSV files.

Source: Amazon Personalize developer guide, "Datasets and schemas" and "Items dataset".
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.personalize.schemas import (
    CREATION_TIMESTAMP,
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    NAMESPACE,
    TIMESTAMP,
    USER_ID,
)

# "Amazon Personalize endpoints and quotas", after May 2024.
MIN_INTERACTIONS = 1000
MIN_USERS_WITH_TWO_INTERACTIONS = 25
MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS = 0.01
MAX_ID_LENGTH = 256

# A filter considers this many of the latest interactions, per user and event type.
FILTER_HISTORY = 100


def interactions_columns(*, event_type: bool, event_value: bool = False) -> list[str]:
    """The CSV's header, in the schema's order, as Personalize requires."""
    return [
        USER_ID,
        ITEM_ID,
        TIMESTAMP,
        *([EVENT_TYPE] if event_type else []),
        *([EVENT_VALUE] if event_value else []),
    ]


def csv_types(columns: Iterable[str]) -> dict[str, pl.DataType]:
    """The types of the CSV's columns: ids are text, whatever they look like."""
    types: dict[str, pl.DataType] = {TIMESTAMP: pl.Int64(), EVENT_VALUE: pl.Float64()}
    return {column: types.get(column, pl.String()) for column in columns}


def scan_interactions(source: Path | io.BytesIO) -> pl.LazyFrame:
    """The CSV's rows, whatever columns it has: ids are text, whatever they look like."""
    types = csv_types(interactions_columns(event_type=True, event_value=True))
    return pl.scan_csv(source, schema_overrides=types, glob=False)


def interactions_schema(*, event_type: bool, event_value: bool = False) -> str:
    """The Avro schema, as the JSON text that CreateSchema takes; TIMESTAMP is in epoch seconds, and
    EVENT_VALUE may be missing."""
    types: dict[str, str | list[str]] = {TIMESTAMP: "long", EVENT_VALUE: ["float", "null"]}
    columns = interactions_columns(event_type=event_type, event_value=event_value)
    fields = [{"name": column, "type": types.get(column, "string")} for column in columns]
    return _schema("Interactions", fields)


# Separates several values of a categorical cell.
VALUE_SEPARATOR = "|"


def field_name(column: str) -> str:
    """A column's name as Personalize takes it: upper-case letters, digits and _."""
    return re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_").upper()


def items_columns(*, created: bool, categories: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """The CSV's header, in the schema's order, as Personalize requires."""
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
    return _schema("Items", fields)


def _schema(name: str, fields: Sequence[Mapping[str, object]]) -> str:
    record = {"type": "record", "name": name, "namespace": NAMESPACE, "fields": fields}
    return json.dumps({**record, "version": "1.0"})
