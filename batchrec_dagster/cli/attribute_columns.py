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
    sample: FileSample,
    given_columns: Mapping[str, Column],
    categories: Sequence[str],
    numbers: Sequence[str],
) -> AttributeColumns:
    """The given columns of categories and numbers, and those that their names show.

    given_columns: by their setting, such as categories.GENRES; those of others are ignored.
    categories, numbers: the columns whose names show that they may be such. Of the latter those
    count that have numbers.
    """
    given_fields: dict[str, dict[str, Column]] = {"categories": {}, "numbers": {}}
    for role, column in given_columns.items():
        kind, dot, field = role.partition(".")
        if dot:
            given_fields[kind][field] = column
    chosen_categories: dict[str, Column] = {make_field_name(name): name for name in categories}
    chosen_categories.update(given_fields["categories"])
    decimal = sample.find_decimal([*numbers, *given_fields["numbers"].values()])
    numeric = [name for name in numbers if sample.is_numeric(name, decimal)]
    chosen_numbers: dict[str, Column] = {make_field_name(name): name for name in numeric}
    chosen_numbers.update(given_fields["numbers"])
    separator = _choose_separator(sample, list(chosen_categories.values()))
    return AttributeColumns(chosen_categories, chosen_numbers, decimal, separator)


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
    sample: FileSample, missing: str, options: str
) -> UnknownColumnsError:
    """The error for columns that were not recognised.

    options: those that name them.
    """
    return UnknownColumnsError(
        f"{sample.name}: couldn't recognise {missing}. Found: {list_columns(sample)}. Give it"
        f" by name, or by position, from 1, if there is no header: {options}"
    )


def _choose_separator(sample: FileSample, categories: Sequence[Column]) -> str:
    cells = [sample.read_cells(name) for name in categories]
    for separator in ("|", ";", ","):
        if any(column.str.contains(separator, literal=True).any() for column in cells):
            return separator
    return VALUE_SEPARATOR
