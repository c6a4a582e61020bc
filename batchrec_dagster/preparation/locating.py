"""Where in a file the columns are that are asked for; the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.layout import Column


def locate(
    wanted: Mapping[str, Column], columns: Sequence[str], name: str, hint: str = ""
) -> dict[str, int]:
    """Where each wanted column is, from 0. Raises PreparationError, with the hint behind."""
    found = {}
    for role, column in wanted.items():
        if isinstance(column, int):
            if column > len(columns):
                raise PreparationError(
                    f"{name}: {setting(role)} is column {column}, but line 1 has"
                    f" {len(columns)}{hint}"
                )
            found[role] = column - 1
        elif column not in columns:
            raise PreparationError(
                f"{name} has no column {column!r} ({setting(role)}); it has:"
                f" {', '.join(columns)}{hint}"
            )
        else:
            found[role] = list(columns).index(column)
    return found


def setting(role: str) -> str:
    """What names the column in the declaration."""
    return "interactions.filter" if role.startswith("filter ") else f"ratings.columns.{role}"
