"""Who has a list in an older edition, but is not among the current users.

Lists that a rollback restores must not reach people who are gone. But data of which a large part is
missing must not empty a good table: then only those who were erased are dropped.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import polars as pl

from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.storage.erased import read_erased_users
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.list_subjects import ITEMS, find_subject
from batchrec_dagster.storage.objects import (
    DamagedObjectError,
    ObjectNotFoundError,
)
from batchrec_dagster.storage.table_without_users import list_users

# If a larger share of a table's users is not among the current ones, the current data may be bad.
MAX_ABSENT_SHARE = 0.2


@dataclass(frozen=True)
class AbsentUsers:
    """The users of a table who are not among the current users."""

    users: int
    """How many users the table has."""
    absent: pl.Series | None
    """The ids of those who are not among the current users; None if these are not known."""
    erased: pl.Series
    """The ids of those who are on the list of erased users."""

    @property
    def may_be_bad_data(self) -> bool:
        """Whether so many are absent that the current data may be bad."""
        return self.absent is not None and len(self.absent) > MAX_ABSENT_SHARE * self.users

    @property
    def to_drop(self) -> pl.Series:
        """The ids of those whose rows go."""
        if self.absent is None or self.may_be_bad_data:
            return self.erased
        return pl.concat([self.absent, self.erased]).unique()

    @property
    def description(self) -> str:
        """Who was dropped, or why nobody was, in words; empty if nobody is absent."""
        erased_count = len(self.erased)
        erased = f"{erased_count:,} erased users were dropped"
        if erased_count == 1:
            erased = "1 erased user was dropped"
        if self.absent is None:
            fate = f"only {erased}" if erased_count else "nobody was dropped"
            return f"the list of the current users is missing or damaged, so {fate}"
        if self.may_be_bad_data:
            finding = (
                f"{len(self.absent):,} of the {self.users:,} users are not among the current users"
                " (batch_users), which is more than a fifth. They stay, because the current data"
                " may be bad"
            )
            return f"{finding}; {erased}" if erased_count else finding
        count = len(self.to_drop)
        if not count:
            return ""
        if count == 1:
            return "1 user who is not among the current users (batch_users) was dropped"
        return f"{count:,} users who are not among the current users (batch_users) were dropped"


def find_absent_users(files: PipelineFiles, users_key: str, rows: pl.LazyFrame) -> AbsentUsers:
    """The users of these rows who are not among the current users, and those who were erased.

    users_key: the storage key of the current users.
    rows: those of an edition, with the column user_id.
    Raises UserError.
    """
    if find_subject(rows.collect_schema().names()) == ITEMS:
        # These lists have nobody.
        nobody = pl.Series("user_id", [], pl.String)
        return AbsentUsers(0, nobody, nobody)
    users = list_users(rows)
    current_users = read_current_users(files, users_key)
    absent = None
    if current_users is not None:
        absent = users.filter(~users.is_in(current_users.implode()))
    erased = read_erased_users(files).find(users)
    return AbsentUsers(len(users), absent, erased)


def read_current_users(files: PipelineFiles, users_key: str) -> pl.Series | None:
    """The ids of the users who get a list now; None if there is no file of them, or a damaged one.

    Raises UserError.
    """
    store = files.storage.store
    try:
        content = io.BytesIO(store.get(files.uri(users_key)))
        users = pl.read_ndjson(content, schema={USER_FIELD: pl.String})
    except (ObjectNotFoundError, DamagedObjectError, pl.exceptions.PolarsError):
        return None
    return users.get_column(USER_FIELD)
