"""The declared users who get lists, and the file of users that batch jobs read."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filters import parse_condition
from batchrec_dagster.personalize.formats import USER_FIELD, scan_interactions
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.preparation.counting import list_distinct
from batchrec_dagster.preparation.id_lists import (
    list_distinct_users,
    read_ids,
    require_within_limits,
)
from batchrec_dagster.preparation.sources.source import RowSource
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.raw_files import make_source_context, open_source
from batchrec_dagster.steps.data.stored_files import PreparedRecord, put_file, require_prepared
from batchrec_dagster.steps.data.user_attributes import read_user_attributes
from batchrec_dagster.steps.records import Result, once
from batchrec_dagster.storage.durable import compute_version
from batchrec_dagster.storage.erased import read_erased_users


@dataclass(frozen=True)
class RequestedUsers:
    """The users who get lists."""

    users: pl.DataFrame
    """The column userId, sorted, with each user once."""
    version: str
    """The version of the file that batch jobs read. It depends only on the file's content."""
    erased: int = 0
    """The number of users of the source who were left out because they were erased."""
    not_matching: int = 0
    """The number of users who do not meet batch_users.filter."""
    unknown: int = 0
    """The number of users who do not meet the filter because the file of users lacks them.

    These users also count in `not_matching`."""


class BatchUsersRecord(PreparedRecord, frozen=True):
    """The record of the stored file of users who get lists."""

    users: int
    erased: int
    """The number of users of the source who were left out because they were erased."""
    not_matching: int
    """The number of users who do not meet batch_users.filter."""
    unknown: int
    """The number of users who do not meet the filter because the file of users lacks them.

    These users also count in `not_matching`."""


def list_users(
    step: StepContext, published: ListTable, source: RowSource | None, code_version: str
) -> Result[BatchUsersRecord]:
    """Store the file of users who get the list, unless an earlier run made it from the same inputs.

    source: the declared source of users; None if none is declared. Every run reads the source,
        because nothing else shows whether its users have changed.
    code_version: a text that changes with the settings and the code.
    Raises UserError.
    """
    made_of = {"settings": code_version}
    requested = None
    if source is None:
        made_of["interactions"] = step.files.asset_version("interactions")
    else:
        requested = find_batch_users(step, published, source)
        made_of["source"] = requested.version
    if published.batch_users.filter is not None:
        made_of["users"] = step.files.asset_version("users")

    def make() -> BatchUsersRecord:
        for asset in {"interactions", "users"}.intersection(made_of):
            require_prepared(step, asset)
        users = requested or find_batch_users(step, published, None)
        content = users.users.write_ndjson().encode()
        file = put_file(step.storage.store, step.files.uri(published.users_key), content)
        return BatchUsersRecord(
            made_of=made_of,
            version=file.version,
            file=file,
            users=users.users.height,
            erased=users.erased,
            not_matching=users.not_matching,
            unknown=users.unknown,
        )

    uri = step.files.uri(published.users_record)
    return once(step, uri, BatchUsersRecord, made_of, make)


def find_batch_users(
    step: StepContext, published: ListTable, source: RowSource | None
) -> RequestedUsers:
    """Return the users who get the list.

    source: the declared source of users. Without a source, the users are taken from the
        interactions since batch_users.active_since.
    Raises UserError.
    """
    erased = 0
    pipeline, settings = step.pipeline, published.batch_users
    setting = published.users_setting
    if source is None:
        with step.storage.local_file(step.files.interactions) as path:
            users = list_distinct_users(scan_interactions(path), settings.since)
        if not users.height:
            raise UserError(
                f"no user has an interaction since {settings.active_since}: set"
                f" {setting}.active_since to an earlier day"
            )
    else:
        with open_source(source, step.storage, pipeline.project) as files:
            ids = read_ids(
                files,
                "user",
                settings.column,
                f"{setting}.column",
                pipeline.ratings.all_null_values,
                settings.file_header,
            )
        listed_users = ids.rename(USER_FIELD).to_frame()
        if not listed_users.height:
            raise UserError(f"{setting}.source has no users: correct its rows or its query")
        # The stored interactions have no rows of erased users, but this source may have some.
        users = read_erased_users(step.files).drop_from(listed_users, USER_FIELD)
        erased = listed_users.height - users.height
        if erased:
            source.remove_downloads(make_source_context(step.storage, pipeline.project))
        if not users.height:
            raise UserError(f"all users of {setting}.source were erased: name others there")
    not_matching = unknown = 0
    if settings.filter is not None:
        requested = users
        users, unknown = _select_matching_users(
            step, requested, settings.filter, f"{setting}.filter"
        )
        not_matching = requested.height - users.height
    lines = users.write_ndjson().encode()
    require_within_limits(users.height, len(lines))
    return RequestedUsers(users, compute_version([lines]), erased, not_matching, unknown)


def _select_matching_users(
    step: StepContext, users: pl.DataFrame, condition: str, setting: str
) -> tuple[pl.DataFrame, int]:
    """Return the users who meet the condition, and the number of users not in the file of users.

    setting: the name of the setting with the condition.
    Raises UserError, also if no user meets the condition.
    """
    user_columns = read_user_attributes(step)
    ids = user_columns.get_column(USER_ID)
    matching_ids = ids.filter(find_matches(parse_condition(condition), user_columns))
    matching = users.filter(pl.col(USER_FIELD).is_in(matching_ids.implode()))
    unknown = int((~users.get_column(USER_FIELD).is_in(ids.implode())).sum())
    if not matching.height:
        raise UserError(
            f"none of the {users.height:,} users meets {setting}: {condition}, and"
            f" {unknown:,} of them are not in the file of users: correct the filter, or"
            " users.columns. The metadata of the asset users show which values there are"
        )
    return matching, unknown


def find_newcomers(step: StepContext, users: pl.Series) -> pl.Series:
    """Return a boolean for each user: whether the user has no interaction. Raises UserError."""
    with step.storage.local_file(step.files.interactions) as path:
        users_with_interactions = list_distinct(scan_interactions(path), USER_ID)
    return ~users.is_in(users_with_interactions.implode())
