"""What is wrong with a part of the declaration, told of the key that it is about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does."""
    text = "\n".join(
        part.model_dump_json() if isinstance(part, BaseModel) else repr(part) for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def field_errors(messages: Mapping[tuple[str, ...], str]) -> ValidationError:
    """An error for a validator to raise: what is wrong, by the keys within what it validates."""
    return ValidationError.from_exception_data(
        "declaration",
        [
            # Of pydantic's own types, for Dagster makes each detail into an error once more.
            InitErrorDetails(
                type="value_error", loc=keys, input=None, ctx={"error": ValueError(message)}
            )
            for keys, message in messages.items()
        ],
    )
