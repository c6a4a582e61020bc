"""A file of users -> what Personalize learns of them, and what filters and conditions read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.attributes import (
    USER_ROWS,
    AttributeRows,
    parse_attribute_rows,
)
from batchrec_dagster.preparation.layout import (
    NULL_VALUES,
    Column,
    Decimal,
    Encoding,
    Header,
)
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers


@dataclass(frozen=True)
class UsersLayout:
    """Which column of a file of users holds what; the fields are as those of `ItemsLayout`."""

    delimiter: str | None
    user: Column
    categories: Mapping[str, Column] = field(default_factory=dict)
    numbers: Mapping[str, Column] = field(default_factory=dict)
    separator: str = schemas.VALUE_SEPARATOR
    encoding: Encoding = "auto"
    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES
    header: Header | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of the CSV file for Personalize."""
        return self._schema.columns

    @property
    def schema(self) -> str:
        """The Avro schema of that file."""
        return self._schema.avro

    @property
    def _schema(self) -> schemas.Schema:
        return schemas.make_users_schema(categories=[*self.categories], numbers=[*self.numbers])

    @property
    def roles(self) -> dict[str, Column]:
        """The columns by the setting in users.columns that names them."""
        return {
            "user": self.user,
            **{f"categories.{name}": column for name, column in self.categories.items()},
            **{f"numbers.{name}": column for name, column in self.numbers.items()},
        }


def parse_user_attributes(
    file: RawFile, layout: UsersLayout, suppressed: ErasedUsers = NOBODY
) -> AttributeRows:
    """The users of a file on this machine, with the columns of the CSV file for Personalize.

    Of rows with the same user the first counts.

    suppressed: the users who were erased, whose rows are left out.

    Raises PreparationError if a declared column is missing, or there is no row.
    """
    parsed = parse_attribute_rows(file, layout, USER_ROWS, suppressed=suppressed)
    return replace(parsed, good=parsed.good.select(layout.columns))
