"""Reads and checks the copied file of users, and reads what was prepared of it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.preparation.attributes import AttributeRows
from batchrec_dagster.preparation.user_attributes import UsersLayout, parse_user_attributes
from batchrec_dagster.steps.checks import (
    check_rows_readable,
    check_source_without_erased,
    refuse_unreadable,
)
from batchrec_dagster.steps.data_sizes import DataSize, RawAttributes
from batchrec_dagster.steps.raw_files import CopiedFile, delete_copies, open_copies, require_copies
from batchrec_dagster.steps.stored_files import TableRecord, put_table
from batchrec_dagster.steps.work import Result, Work, once
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.erased import ErasedUsers, read_erased_users
from batchrec_dagster.storage.layout import MAKE_AGAIN
from batchrec_dagster.storage.objects import DamagedObjectError

CODE_VERSION = "1"
USERS_READABLE = "users_readable"
# The most frequent values of a category are shown, if this many users have them. So none of them
# says something of a single person.
SHOWN_VALUES, LEAST_USERS = 3, 10


def read_users_file(
    copies: Sequence[CopiedFile],
    storage: Storage,
    layout: UsersLayout,
    suppressed: ErasedUsers,
) -> AttributeRows:
    """The rows of the copied file, without those of users who were erased.

    Raises UserError, and PreparationError unless `inspect_users` has passed it.
    """
    with open_copies(copies, storage) as (raw_file,):
        return parse_user_attributes(raw_file, layout, suppressed)


def inspect_users(
    copies: Sequence[CopiedFile],
    storage: Storage,
    layout: UsersLayout,
    on_bad_rows: str,
    suppressed: ErasedUsers,
) -> tuple[Finding, DataSize]:
    """The verdict on the copied file, and how much is in it. Raises UserError, and Refused if it
    cannot be read."""
    with refuse_unreadable(USERS_READABLE):
        users = read_users_file(copies, storage, layout, suppressed)
    values = {
        f"users.columns.{role}": users.good.get_column(role.rpartition(".")[2]).count()
        for role in layout.roles
        if role != "user"
    }
    check = check_rows_readable(USERS_READABLE, "users", users.rows, users.bad, on_bad_rows)
    return check, DataSize(rows=users.good.height, values=values)


class UsersRecord(TableRecord, frozen=True):
    """The prepared table of users."""

    frequent_values: dict[str, dict[str, int]]
    """How many users have each of the most frequent values of a category, by column."""
    erased: int
    """How many users of the source were left out because they were erased."""


def describe_settings(layout: UsersLayout) -> str:
    """A fingerprint of what the table depends on besides the file: settings and code."""
    return f"{CODE_VERSION}-{fingerprint(layout)}"


def prepare_users(work: Work, raw: RawAttributes, layout: UsersLayout) -> Result[UsersRecord]:
    """What is known of the users, prepared unless an earlier run has done so.

    The copy of the source is deleted in the end if it has rows of users who were erased.
    Raises UserError.
    """
    suppressed = read_erased_users(work.files)
    made_of = {
        "raw_users": raw.version,
        "settings": describe_settings(layout),
        "erased": suppressed.version or "",
    }

    def make() -> UsersRecord:
        require_copies(raw, "raw_users")
        users = read_users_file(raw.files, work.storage, layout, suppressed)
        check = check_source_without_erased(users.erased_rows, len(users.erased))
        stored = put_table(work, work.pipeline.keys.users, users.good, made_of)
        return UsersRecord(
            **{**dict(stored), "findings": (check,)},
            frequent_values=_count_frequent_values(users.good),
            erased=len(users.erased),
        )

    result = once(work, work.files.record_uri("users"), UsersRecord, made_of, make)
    if result.record.erased and not raw.copies_deleted:
        assert work.pipeline.users is not None
        delete_copies(work, "raw_users", work.pipeline.users.rows, raw)
    return result


def _count_frequent_values(users: pl.DataFrame) -> dict[str, dict[str, int]]:
    frequent = {}
    for column in users.drop(USER_ID).iter_columns():
        if column.dtype == pl.String:
            counts = column.drop_nulls().value_counts(sort=True)
            often_enough = counts.filter(pl.col("count") >= LEAST_USERS).head(SHOWN_VALUES)
            frequent[column.name] = dict(often_enough.iter_rows())
    return frequent


def read_user_attributes(work: Work) -> pl.DataFrame:
    """What is known of the users, whom the pipeline must declare: a row for each of them.

    The columns are USER_ID and those of `users.columns`, by the names that conditions use. A
    category is text, in which | separates several values; a number is a float. Either may be null.

    Raises UserError.
    """
    assert work.pipeline.users is not None
    layout, key = work.pipeline.users.layout, work.pipeline.keys.users
    uri = work.files.uri(key)
    types: dict[str, pl.DataType] = {USER_ID: pl.String()}
    types |= dict.fromkeys(layout.categories, pl.String())
    types |= dict.fromkeys(layout.numbers, pl.Float64())
    if work.storage.store.head(uri) is None:
        raise UserError(f"there is no {uri}: materialize users first")
    with work.storage.local_file(uri) as path:
        try:
            return pl.scan_csv(path, schema=types, glob=False).collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise DamagedObjectError(work.storage.where(uri), error, MAKE_AGAIN) from error
