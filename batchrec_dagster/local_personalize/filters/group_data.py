"""The datasets that a filter reads, as its dataset group has them now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.conditions import check
from batchrec_dagster.personalize.filters import Expression, FilterExpressionError, list_fields

from ..data.datasets import STORED_TYPES
from ..errors import JobFailedError

ReadColumns = Callable[[str, Sequence[str]], pl.DataFrame]
"""Returns columns of the group's dataset of a type. Their names match in any case."""

_KEYS = {
    schemas.ITEMS: [schemas.ITEM_ID],
    schemas.USERS: [schemas.USER_ID],
    schemas.INTERACTIONS: [schemas.USER_ID, schemas.ITEM_ID, schemas.TIMESTAMP],
}
_FIELD_TYPES = {stored: name for name, stored in STORED_TYPES.items()}


def load_datasets(
    expressions: tuple[Expression, ...], read: ReadColumns
) -> dict[str, pl.DataFrame]:
    """Return the datasets that the filter uses, by type.

    A dataset has its ids and the fields that the filter names.

    Raises JobFailedError when one is missing, or has changed so that the filter no longer fits.
    """
    columns: dict[str, list[str]] = {}
    for dataset_type, column in sorted(list_fields(expressions)):
        columns.setdefault(dataset_type, list(_KEYS[dataset_type])).append(column)
    frames = {}
    current_schemas = {}
    for dataset_type, names in columns.items():
        frame = read(dataset_type, list(dict.fromkeys(names)))
        frames[dataset_type] = frame
        current_schemas[dataset_type] = _make_schema(dataset_type, frame)
    try:
        check(expressions, current_schemas)
    except FilterExpressionError as error:
        raise JobFailedError(f"The filter does not fit the current data: {error}") from None
    for dataset_type in frames.keys() - {schemas.INTERACTIONS}:
        # A later import replaces the earlier rows of an id.
        frames[dataset_type] = frames[dataset_type].unique(
            _KEYS[dataset_type], keep="last", maintain_order=True
        )
    return frames


def _make_schema(dataset_type: str, frame: pl.DataFrame) -> schemas.Schema:
    field_list = [
        schemas.Field(name, _FIELD_TYPES[type(stored)]) for name, stored in frame.schema.items()
    ]
    return schemas.Schema(dataset_type, tuple(field_list))
