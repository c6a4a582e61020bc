"""The Interactions dataset: its Avro schema and the columns of its CSV file.

Source: Amazon Personalize developer guide, "Datasets and schemas".
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import polars as pl

USER_ID = "USER_ID"
ITEM_ID = "ITEM_ID"
TIMESTAMP = "TIMESTAMP"
EVENT_TYPE = "EVENT_TYPE"
EVENT_VALUE = "EVENT_VALUE"

# "Amazon Personalize endpoints and quotas", after May 2024.
MIN_INTERACTIONS = 1000
MIN_USERS_WITH_TWO_INTERACTIONS = 25
MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS = 0.01
MAX_ID_LENGTH = 256

# A filter on interactions looks at this many of the latest, per user and event type.
FILTER_HISTORY = 100


def interactions_columns(*, event_type: bool, event_value: bool = False) -> list[str]:
    """The CSV's header, in the schema's order, as Personalize wants it."""
    return [
        USER_ID,
        ITEM_ID,
        TIMESTAMP,
        *([EVENT_TYPE] if event_type else []),
        *([EVENT_VALUE] if event_value else []),
    ]


def csv_types(columns: Iterable[str]) -> dict[str, pl.DataType]:
    """How the CSV's columns are read: ids are text, whatever they look like."""
    types: dict[str, pl.DataType] = {TIMESTAMP: pl.Int64(), EVENT_VALUE: pl.Float64()}
    return {column: types.get(column, pl.String()) for column in columns}


def scan_interactions(source: Path | io.BytesIO) -> pl.LazyFrame:
    """The CSV's rows, whatever columns it has: ids are text, whatever they look like."""
    types = {USER_ID: pl.String, ITEM_ID: pl.String, TIMESTAMP: pl.Int64, EVENT_TYPE: pl.String}
    return pl.scan_csv(source, schema_overrides=types, glob=False)


def interactions_schema(*, event_type: bool, event_value: bool = False) -> str:
    """The Avro schema, as the JSON text that CreateSchema takes; TIMESTAMP is in epoch seconds, and
    EVENT_VALUE may be missing."""
    types: dict[str, str | list[str]] = {TIMESTAMP: "long", EVENT_VALUE: ["float", "null"]}
    return json.dumps(
        {
            "type": "record",
            "name": "Interactions",
            "namespace": "com.amazonaws.personalize.schema",
            "fields": [
                {"name": column, "type": types.get(column, "string")}
                for column in interactions_columns(event_type=event_type, event_value=event_value)
            ],
            "version": "1.0",
        }
    )
