"""The table of users' attributes: its preparation, and reading it for conditions."""

from __future__ import annotations

import polars as pl

from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.attributes import fingerprint_layout, read_attribute_rows
from batchrec_dagster.steps.data.checks import check_source_without_erased
from batchrec_dagster.steps.data.data_sizes import RawAttributes
from batchrec_dagster.steps.data.raw_files import delete_copies, require_copies
from batchrec_dagster.steps.data.stored_files import TableRecord, put_table
from batchrec_dagster.steps.records import Result, once
from batchrec_dagster.storage.erased import read_erased_users
from batchrec_dagster.storage.layout import MAKE_AGAIN
from batchrec_dagster.storage.objects import DamagedObjectError

# Only this many of a category's most frequent values are shown, and only values that at least this
# many users have. So no shown value tells something about a single person.
SHOWN_VALUES, LEAST_USERS = 3, 10


class UsersRecord(TableRecord, frozen=True):
    """The record of the prepared table of users."""

    frequent_values: dict[str, dict[str, int]]
    """The number of users with each of the most frequent values of a category, by column and
    value."""
    erased: int
    """The number of users in the source who were left out because they were erased."""


def prepare_users(
    step: StepContext, raw: RawAttributes, layout: AttributesLayout
) -> Result[UsersRecord]:
    """Prepare the table of users' attributes, unless an earlier run made it from the same inputs.

    If the copies of the source have rows of erased users, the copies are deleted at the end. Raises
    UserError.

    raw: the record of the copied source files.
    layout: the columns of the table.
    """
    erased_users = read_erased_users(step.files)
    made_of = {
        "raw_users": raw.version,
        "settings": fingerprint_layout(layout),
        "erased": erased_users.version or "",
    }

    def make() -> UsersRecord:
        require_copies(raw, "raw_users")
        users = read_attribute_rows(raw.files, step.storage, layout, erased_users)
        check = check_source_without_erased(users.erased_rows, len(users.erased))
        table = users.good.select(layout.columns)
        stored = put_table(step, step.pipeline.keys.users, table, made_of)
        return UsersRecord(
            **{**dict(stored), "findings": (check,)},
            frequent_values=_count_frequent_values(table),
            erased=len(users.erased),
        )

    result = once(step, step.files.record_uri("users"), UsersRecord, made_of, make)
    if result.record.erased and not raw.copies_deleted:
        assert step.pipeline.users is not None
        delete_copies(step, "raw_users", step.pipeline.users.rows, raw)
    return result


def _count_frequent_values(users: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count the users who have each of the most frequent values, by category and value."""
    frequent = {}
    for column in users.drop(USER_ID).iter_columns():
        if column.dtype == pl.String:
            counts = column.drop_nulls().value_counts(sort=True)
            often_enough = counts.filter(pl.col("count") >= LEAST_USERS).head(SHOWN_VALUES)
            frequent[column.name] = dict(often_enough.iter_rows())
    return frequent


def read_user_attributes(step: StepContext) -> pl.DataFrame:
    """Read the table of users' attributes: a row for each user. The pipeline must declare users.

    The columns are USER_ID and the columns of `users.columns`, with the names that conditions use.
    A category is text, and | separates several values. A number is a float. Any value may be null.

    Raises UserError, and DamagedObjectError if the table is damaged.
    """
    assert step.pipeline.users is not None
    layout, key = step.pipeline.users.layout, step.pipeline.keys.users
    uri = step.files.uri(key)
    types: dict[str, pl.DataType] = {USER_ID: pl.String()}
    types |= dict.fromkeys(layout.categories, pl.String())
    types |= dict.fromkeys(layout.numbers, pl.Float64())
    if step.storage.store.head(uri) is None:
        raise UserError(f"there is no {uri}: materialize users first")
    with step.storage.local_file(uri) as path:
        try:
            return pl.scan_csv(path, schema=types, glob=False).collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise DamagedObjectError(step.storage.where(uri), error, MAKE_AGAIN) from error
