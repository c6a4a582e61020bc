"""The values of a filter's placeholders, which lists for users and similar items declare alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import field_validator

from batchrec_dagster.personalize import filter_check
from batchrec_dagster.personalize.filter_expressions import MAX_VALUE_LENGTH, format_values

FilterValue = str | int | float
# By the name of the placeholder.
FilterValues = dict[str, FilterValue | list[FilterValue]]


def validate_filter_values() -> Any:
    """A validator of the field `filter_values`, whose values an input line must be able to have."""

    def check(filter_values: FilterValues) -> FilterValues:
        for name, values in filter_values.items():
            if values in ("", []):
                raise ValueError(f"{name} has no value")
            if any('"' in str(value) for value in list_values(values)):
                raise ValueError(f"{name} has a value with a quote, which filters do not allow")
            if len(format_values(list_values(values))) > MAX_VALUE_LENGTH:
                raise ValueError(
                    f"{name} is too long: Personalize takes {MAX_VALUE_LENGTH} characters, with"
                    " quotes and commas"
                )
        return filter_values

    return field_validator("filter_values")(check)


def require_filter_values(
    expression: str | None,
    filter_values: Mapping[str, FilterValue | list[FilterValue]],
    lines: str,
) -> None:
    """Raise ValueError unless each placeholder of a filter has a value, and there is no other.

    expression: the filter; None without one. Of one with templates nothing is asked yet.
    lines: what the input lines are of, which need the values, such as `every user`.
    """
    if expression is not None and "{{" in expression:
        return
    placeholders = {*filter_check.find_traits(expression).placeholders} if expression else set()
    missing, unknown = placeholders - {*filter_values}, {*filter_values} - placeholders
    if missing:
        raise ValueError(
            f"filter_values is missing {', '.join(sorted(missing))}: the filter has"
            f" {_format_placeholders(missing)}, for which {lines} needs a value"
        )
    if unknown:
        raise ValueError(
            f"filter_values has {', '.join(sorted(unknown))}, but the filter has no"
            f" {_format_placeholders(unknown)}"
        )


def list_values(values: FilterValue | list[FilterValue]) -> list[FilterValue]:
    """The values, also if there is only one, without a list."""
    return values if isinstance(values, list) else [values]


def _format_placeholders(names: set[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names))
