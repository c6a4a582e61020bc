"""Who gets lists: of the model or, as newcomers or in an experiment, of popular items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.config.recommendations import PopularBy
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.file_formats import USER_FIELD, scan_interactions
from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.preparation.sources.source import RatingsSource
from batchrec_dagster.preparation.users import check_limits, list_distinct_users, read_users
from batchrec_dagster.steps.arms import MODEL, assign_arms
from batchrec_dagster.steps.popular_items import POPULAR, read_user_groups
from batchrec_dagster.steps.raw_files import make_source_context, open_source
from batchrec_dagster.steps.shared_jobs import locate_input
from batchrec_dagster.steps.stored_files import PreparedRecord, put_file, require_prepared
from batchrec_dagster.steps.user_attributes import read_user_attributes
from batchrec_dagster.steps.work import Result, Work, once
from batchrec_dagster.storage.durable import compute_version
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.erased import read_erased_users
from batchrec_dagster.storage.layout import USERS_FILE, ListFiles


@dataclass(frozen=True)
class RequestedUsers:
    """The users who get lists."""

    users: pl.DataFrame
    """The column userId: each once, in order of their ids."""
    version: str
    """The version of the input that they become."""
    erased: int = 0
    """How many users of the source were left out because they were erased."""
    not_matching: int = 0
    """How many users do not meet batch_users.filter."""
    unknown: int = 0
    """How many of them the file of users does not have."""


class UsersRecord(PreparedRecord, frozen=True):
    """The stored users who get lists."""

    users: int
    erased: int
    """How many users of the source were left out because they were erased."""
    not_matching: int
    """How many users do not meet batch_users.filter."""
    unknown: int
    """How many of them the file of users does not have."""


def list_users(
    work: Work, published: PublishedList, source: RatingsSource | None, code_version: str
) -> Result[UsersRecord]:
    """The stored users who get the list, listed unless an earlier run has done so.

    source: the declared one, which is always read, because nothing says whether it has changed.
    code_version: changes with the settings and the code.
    Raises UserError.
    """
    made_of = {"settings": code_version}
    requested = None
    if source is None:
        made_of["interactions"] = work.files.interactions_version()
    else:
        requested = find_batch_users(work, published, source)
        made_of["source"] = requested.version
    if published.batch_users.filter is not None:
        made_of["users"] = work.files.record_version(work.pipeline.keys.record("users"))

    def make() -> UsersRecord:
        for asset in {"interactions", "users"}.intersection(made_of):
            require_prepared(work, asset)
        users = requested or find_batch_users(work, published, None)
        content = users.users.write_ndjson().encode()
        file = put_file(work.storage.store, work.files.uri(published.users_key), content)
        return UsersRecord(
            made_of=made_of,
            version=file.version,
            file=file,
            users=users.users.height,
            erased=users.erased,
            not_matching=users.not_matching,
            unknown=users.unknown,
        )

    uri = work.files.uri(published.users_record)
    return once(work, uri, UsersRecord, made_of, make)


def find_batch_users(
    work: Work, published: PublishedList, source: RatingsSource | None
) -> RequestedUsers:
    """The declared users of the list.

    source: the list of users, if one is declared.
    Raises PreparationError, UserError, UserError, UserError.
    """
    erased = 0
    pipeline, settings = work.pipeline, published.batch_users
    setting = published.users_setting
    if source is None:
        with work.storage.local_file(work.files.interactions) as path:
            size = path.stat().st_size
            users = list_distinct_users(scan_interactions(path), settings.since, size)
        if not users.height:
            raise UserError(
                f"no user has an interaction since {settings.active_since}: set"
                f" {setting}.active_since to an earlier day"
            )
    else:
        with open_source(source, work.storage, pipeline.project) as files:
            null_values = pipeline.ratings.all_null_values
            listed_users = read_users(files, settings.column, null_values, settings.file_header)
        if not listed_users.height:
            raise UserError(f"{setting}.source has no users: correct its rows or its query")
        # Of the interactions they were left out when these were made.
        users = read_erased_users(work.files).drop_from(listed_users, USER_FIELD)
        erased = listed_users.height - users.height
        if erased:
            source.remove_downloads(make_source_context(work.storage, pipeline.project))
        if not users.height:
            raise UserError(f"all users of {setting}.source were erased: name others there")
    not_matching = unknown = 0
    if settings.filter is not None:
        requested = users
        users, unknown = _select_matching_users(
            work, requested, settings.filter, f"{setting}.filter"
        )
        not_matching = requested.height - users.height
    lines = users.write_ndjson().encode()
    check_limits(users.height, len(lines))
    return RequestedUsers(users, compute_version([lines]), erased, not_matching, unknown)


def _select_matching_users(
    work: Work, users: pl.DataFrame, condition: str, setting: str
) -> tuple[pl.DataFrame, int]:
    """The users who meet the condition, and how many the file of users does not have.

    setting: the setting with the condition.
    Raises UserError, and UserError if nobody meets it.
    """
    attributes = read_user_attributes(work)
    ids = attributes.get_column(USER_ID)
    matching_ids = ids.filter(find_matches(parse_condition(condition), attributes))
    matching = users.filter(pl.col(USER_FIELD).is_in(matching_ids.implode()))
    unknown = int((~users.get_column(USER_FIELD).is_in(ids.implode())).sum())
    if not matching.height:
        raise UserError(
            f"none of the {users.height:,} users meets {setting}: {condition}, and"
            f" {unknown:,} of them are not in the file of users: correct the filter, or"
            " users.columns. The metadata of the asset users show which values there are"
        )
    return matching, unknown


@dataclass(frozen=True)
class ModelUsers:
    """The users whose lists a batch inference job makes."""

    ids: pl.Series
    input: str
    """The URI of their file."""
    version: str
    """The version of its content."""


@dataclass(frozen=True)
class DividedUsers:
    """Who gets lists of the model, and who lists of popular items."""

    of_model: ModelUsers
    popular: pl.DataFrame
    """The users whose lists are made of popular items on this side, without a job. The columns are
    user_id and reason."""
    newcomers: int | None = None
    """How many users have no interaction; None if nobody asked."""

    @property
    def ids(self) -> pl.Series:
        """The ids of all who get lists."""
        return pl.concat([self.of_model.ids.alias("user_id"), self.popular.get_column("user_id")])


def divide_users(
    work: Work, published: PublishedList, batch_users: pl.LazyFrame, users_version: str
) -> DividedUsers:
    """Who gets which lists.

    In an experiment, the control gets popular items or nothing; without one everybody but newcomers
    gets the model's lists.

    batch_users: the lines of the users' file.
    users_version: the version of the file.
    Raises UserError, UserError.
    """
    experiment, newcomers = published.experiment, published.settings.newcomers
    lines = batch_users.collect(engine="streaming")
    users = lines.get_column(USER_FIELD)
    reason = pl.Series("reason", [None], pl.String).new_from_index(0, len(users))
    has_model = pl.Series(np.ones(len(users), dtype=bool))
    is_new = None
    if experiment is not None:
        has_model = assign_arms(users, experiment) == MODEL
        if experiment.control == "popular":
            reason = reason.to_frame().select(pl.when(~has_model).then(pl.lit(POPULAR))).to_series()
    if newcomers is not None:
        is_new = find_newcomers(work, users)
        gets_none = experiment is not None and experiment.control == "none"
        reason = _explain_newcomers(
            work, published, users, reason, is_new & (has_model | (not gets_none))
        )
        has_model &= ~is_new
    popular = pl.DataFrame({"user_id": users, "reason": reason}).drop_nulls("reason")
    count = None if is_new is None else int(is_new.sum())
    if has_model.all() and experiment is None:
        everybody = ModelUsers(users, work.files.uri(published.users_key), users_version)
        return DividedUsers(everybody, popular, count)
    model_lines = lines.filter(has_model)
    if not model_lines.height:
        raise UserError(
            f"the model has no user to make lists for: all {len(users):,} are in the control of the"
            " experiment or have no interactions. Set a lower experiment.control_share, or omit"
            f" {published.setting}.newcomers"
        )
    uri = work.files.uri(f"{locate_input(published)}{MODEL}/{USERS_FILE}")
    content = model_lines.write_ndjson().encode()
    work.storage.store.put(uri, content)
    of_model = ModelUsers(model_lines.get_column(USER_FIELD), uri, compute_version([content]))
    return DividedUsers(of_model, popular, count)


def find_newcomers(work: Work, users: pl.Series) -> pl.Series:
    """Whether each of these users has no interaction. Raises UserError."""
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        users_with_interactions = (
            interactions.select(pl.col(USER_ID).unique()).collect(engine="streaming").to_series()
        )
    return ~users.is_in(users_with_interactions.implode())


def _explain_newcomers(
    work: Work,
    published: PublishedList,
    users: pl.Series,
    reason: pl.Series,
    is_served: pl.Series,
) -> pl.Series:
    """The reasons of all users, with those of the newcomers who are served."""
    policy = published.settings.newcomers
    reasons = pl.DataFrame({USER_ID: users, "reason": reason, "is_served": is_served})
    own = pl.lit(None if policy == "leave_out" else POPULAR, dtype=pl.String)
    if isinstance(policy, PopularBy):
        groups = (
            read_user_groups(work, published)
            .unique(USER_ID, keep="first")
            .rename({"reason": "group"})
        )
        reasons = reasons.join(groups, on=USER_ID, how="left", maintain_order="left")
        own = pl.col("group").fill_null(POPULAR)
    return reasons.select(
        reason=pl.when("is_served").then(own).otherwise(pl.col("reason"))
    ).to_series()


def keep_users_without_lists(
    files: ListFiles, version: str, batch_users: pl.LazyFrame, table: Path, failed: pl.DataFrame
) -> None:
    """Store which of the requested users have no rows in an edition's table, and why if known.

    The outcomes of an experiment count them too, and `batchrec show` says why. The published table
    deletes the file with the edition.

    version: the edition's.
    batch_users: the lines of the users' file.
    table: the file of the edition's table.
    failed: the columns user_id and error, of the users whom Personalize returned an error for.
    Raises UserError.
    """
    listed = pl.scan_parquet(table, glob=False).filter(rank=1).select("user_id")
    requested = batch_users.select(user_id=USER_FIELD)
    without = (
        requested.join(listed, on="user_id", how="anti")
        .join(failed.lazy(), on="user_id", how="left")
        .sort("user_id")
    )
    key = files.keys.users_without_lists(version)
    files.write_parquet(key, without.collect(engine="streaming"))


def read_users_without_lists(files: ListFiles, edition: Edition) -> pl.Series:
    """The ids of the requested users without rows in an experiment's edition. Raises
    UserError."""
    fix = "delete it: then the users without lists do not count in this edition's outcomes"
    users = files.parquet(files.keys.users_without_lists(edition.version), fix)
    if users is None:
        return pl.Series("user_id", [], pl.String)
    return users.get_column("user_id")
