"""What `batchrec new` recognises alike in a file of items and in one of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchrec_dagster.cli.column_candidates import UnknownColumnsError, list_columns
from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR, make_field_name
from batchrec_dagster.preparation.column_names import find_columns, recognise_columns
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import Column, Decimal


@dataclass(frozen=True)
class AttributeColumns:
    """The columns of what Personalize learns of an item or a user."""

    categories: dict[str, Column]
    """Those of text, by the field's name in Personalize."""
    numbers: dict[str, Column]
    """Those of numbers, in the same way."""
    decimal: Decimal
    """The decimal separator of the numbers."""
    separator: str
    """What stands between several values of a category."""


def choose_attribute_columns(
    sample: FileSample, categories: Sequence[str], numbers: Sequence[str]
) -> AttributeColumns:
    """The columns of categories and numbers.

    categories, numbers: the columns whose names show that they may be such. Of the latter those
    count that have numbers.
    """
    decimal = sample.find_decimal(numbers)
    return AttributeColumns(
        {make_field_name(name): name for name in categories},
        {make_field_name(name): name for name in numbers if sample.is_numeric(name, decimal)},
        decimal,
        _choose_separator(sample, categories),
    )


def recognise_id(
    sample: FileSample, role: str, settings_of_ratings: Mapping[str, object]
) -> Column | None:
    """The column with the id: by a known name, or by its name in the ratings, or id.

    role: item or user.
    settings_of_ratings: the block `ratings` of the YAML.
    """
    recognised = recognise_columns(sample.columns).get(role)
    if recognised is not None:
        return recognised
    columns_of_ratings = settings_of_ratings.get("columns")
    same_name = columns_of_ratings[role] if isinstance(columns_of_ratings, dict) else None
    for name in sample.columns:
        if name == same_name or find_columns([name], ["id"]):
            return name
    return None


def build_unknown_columns_error(
    sample: FileSample, missing: str, block: str
) -> UnknownColumnsError:
    """The error for columns that were not recognised.

    block: of the YAML, which has to name them.
    """
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise {missing}. Found: {list_columns(sample)}. Leave out"
        f" --{block}, and write the block `{block}` into defs.yaml, with its columns"
    )


def _choose_separator(sample: FileSample, categories: Sequence[str]) -> str:
    cells = [sample.read_cells(name) for name in categories]
    for separator in ("|", ";", ","):
        if any(column.str.contains(separator, literal=True).any() for column in cells):
            return separator
    return VALUE_SEPARATOR
