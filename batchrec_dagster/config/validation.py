"""Validators of settings, and errors by their keys."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError, field_validator
from pydantic_core import InitErrorDetails

from batchrec_dagster.errors import UserError

Keys = tuple[str, ...]
"""The keys of a setting, such as ("solution", "event_weights")."""


def raise_field_errors(problems: Iterable[tuple[Keys, str]]) -> None:
    """Raise ValidationError if there are problems, with the keys of their settings."""
    messages = dict(problems)
    if messages:
        raise build_field_errors(messages)


def build_field_errors(messages: Mapping[Keys, str]) -> ValidationError:
    """The error for a validator to raise.

    messages: each by its keys within the validated model.
    """
    return ValidationError.from_exception_data(
        "declaration",
        [
            # A type of pydantic's own, as Dagster rebuilds each error from its details.
            InitErrorDetails(
                type="value_error", loc=keys, input=None, ctx={"error": ValueError(message)}
            )
            for keys, message in messages.items()
        ],
    )


def validate_range(
    *fields: str, least: float | None = None, above: float | None = None, most: float | None = None
) -> Any:
    """A validator for numbers, which must be finite and within these bounds.

    Dagster's models take no constraints in the fields themselves.

    least: the smallest number allowed.
    above: numbers must be larger than this.
    most: the largest number allowed.
    """

    def check(number: float | None) -> float | None:
        fits = number is None or (
            math.isfinite(number)
            and (least is None or number >= least)
            and (above is None or number > above)
            and (most is None or number <= most)
        )
        if not fits:
            bounds = {"from": least, "above": above, "to": most}
            limits = [f" {word} {bound}" for word, bound in bounds.items() if bound is not None]
            if limits == [f" from {least}"]:
                raise ValueError(f"write a number of {least} or more")
            raise ValueError("write a number" + "".join(limits))
        return number

    return field_validator(*fields)(check)


def validate_with(check: Callable[[str], object], *fields: str) -> Any:
    """A validator for texts, which `check` must not refuse once templates are filled in.

    check: raises ValueError or UserError for a text that is not allowed.
    """

    def check_filled(text: str | None) -> str | None:
        try:
            if text is not None and "{{" not in text:
                check(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    return field_validator(*fields)(check_filled)


def validate_pattern(*fields: str, pattern: str, or_else: str, or_template: bool = False) -> Any:
    """A validator for texts, which must match the whole pattern.

    or_else: the message for other texts, which says what to write.
    or_template: whether templates are allowed. They are where the model is also made of what was
        declared, before templates are filled in.
    """

    def check(text: str | None) -> str | None:
        template = or_template and "{{" in (text or "")
        if text is not None and not template and not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(or_else)
        return text

    return field_validator(*fields)(check)
