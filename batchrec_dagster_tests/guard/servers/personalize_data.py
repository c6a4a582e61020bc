"""Data for the local Personalize: interactions that a model can learn from, and their schemas."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

Row = tuple[str, str, int]


def build_taste_rows(
    rows: int = 1500, users: int = 60, items: int = 40, seed: int = 0
) -> list[Row]:
    """Return interactions to learn from: even users like even items, odd users like odd items."""
    rng = random.Random(seed)
    taste_rows = []
    for moment in range(rows):
        user = rng.randrange(users)
        item = rng.randrange(items // 2) * 2 + user % 2
        taste_rows.append((f"u{user}", f"i{item}", 1_600_000_000 + moment))
    return taste_rows


def encode_csv(rows: Iterable[Row], *, event_type: str | None = "watch") -> bytes:
    """Return these rows as an interactions CSV."""
    header = "USER_ID,ITEM_ID,TIMESTAMP" + (",EVENT_TYPE" if event_type else "")
    tail = f",{event_type}" if event_type else ""
    return "\n".join([header, *(f"{u},{i},{t}{tail}" for u, i, t in rows), ""]).encode()


def encode_user_lines(user_ids: Iterable[str]) -> bytes:
    """Return the input of a batch inference job for these users."""
    return "".join(json.dumps({"userId": user}) + "\n" for user in user_ids).encode()


def write_schema(kind: str, *fields: Mapping[str, Any]) -> str:
    """Return an Avro schema for CreateSchema.

    kind: Interactions, Items or Users.
    fields: the fields of the schema. A field without a type is a string.
    """
    schema = {
        "type": "record",
        "name": kind,
        "namespace": "com.amazonaws.personalize.schema",
        "fields": [{"type": "string", **field} for field in fields],
        "version": "1.0",
    }
    return json.dumps(schema)


def write_interactions_schema(*further: Mapping[str, Any], event_type: bool = True) -> str:
    """Return the schema of the columns that `encode_csv` writes, and of further columns."""
    event = [{"name": "EVENT_TYPE"}] if event_type else []
    time_field = {"name": "TIMESTAMP", "type": "long"}
    return write_schema(
        "Interactions", {"name": "USER_ID"}, {"name": "ITEM_ID"}, time_field, *event, *further
    )
