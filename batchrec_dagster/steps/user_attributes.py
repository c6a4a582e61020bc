"""Reads and checks the copied file of users, and reads what was prepared of it."""

from __future__ import annotations

import polars as pl

from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.preparation.attributes import AttributeRows
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.user_attributes import UsersLayout, parse_user_attributes
from batchrec_dagster.steps.checks import check_rows_readable
from batchrec_dagster.steps.data_sizes import DataSize, FileInspection
from batchrec_dagster.steps.raw_files import RawRecord, open_copy, require_copies
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.editions import Finding
from batchrec_dagster.storage.hashed_users import SuppressedUsers
from batchrec_dagster.storage.layout import MAKE_AGAIN
from batchrec_dagster.storage.objects import DamagedObjectError


def read_users_file(
    raw: RawRecord, storage: StorageResource, layout: UsersLayout, suppressed: SuppressedUsers
) -> AttributeRows:
    """The rows of the copied file, without those of users who were erased.

    Raises UserError, UserError, and PreparationError unless `inspect_users` has passed it.
    """
    require_copies(raw, "raw_users")
    (file,) = raw.files
    with open_copy(file, storage) as raw_file:
        return parse_user_attributes(raw_file, layout, suppressed)


def inspect_users(
    raw: RawRecord,
    storage: StorageResource,
    layout: UsersLayout,
    on_bad_rows: str,
    suppressed: SuppressedUsers,
) -> FileInspection:
    """The verdict on the copied file. Raises UserError."""
    try:
        users = read_users_file(raw, storage, layout, suppressed)
    except PreparationError as error:
        check = Finding("users_readable", passed=False, text=str(error))
        return FileInspection(check, DataSize(0))
    check = check_rows_readable("users_readable", "users", users.rows, users.bad, on_bad_rows)
    values = {
        f"users.columns.{role}": users.good.get_column(role.rpartition(".")[2]).count()
        for role in layout.roles
        if role != "user"
    }
    return FileInspection(check, DataSize(users.good.height, values=values))


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
