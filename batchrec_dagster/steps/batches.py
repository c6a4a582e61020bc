"""Who gets lists: the users to recommend to, and from which model they get them: all from one, or
the arms of an experiment from two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchrec_dagster.outcomes.arms import CONTROL, MODEL, assign_arms
from batchrec_dagster.personalize import batch_files
from batchrec_dagster.personalize.batch_files import USER_FIELD
from batchrec_dagster.personalize.recipes import POPULARITY_COUNT
from batchrec_dagster.personalize.schemas import scan_interactions
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.users import check_limits, distinct_users, listed_users
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.raw_files import open_source
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster.storage.users_files import UsersFiles, measure_users


def find_batch_users(work: Work) -> tuple[pl.DataFrame, str]:
    """The users as declared, each once, in order of their id: userId, and filterValues where the
    filter has placeholders; and the version of the input they become. Raises PreparationError,
    SourceError, StorageError, StepError."""
    pipeline, declared = work.pipeline, work.pipeline.batch_users
    filter_values = pipeline.recommendations.line_filter_values
    if declared.source is None:
        with _open_interaction_times(work) as (times, file_bytes):
            users = distinct_users(times, declared.since, file_bytes)
    else:
        source = parse_source(declared.source, declared.format)
        with open_source(source, work.storage, pipeline.project) as files:
            users = listed_users(files, declared.column, pipeline.ratings.all_null_values)
    if filter_values:
        # A batch inference job reads the values from its input; here all users have the same.
        values = [pl.lit(value).alias(name) for name, value in filter_values.items()]
        users = users.with_columns(filterValues=pl.struct(values))
    version, size = measure_users(users)
    check_limits(users.height, size)
    if not users.height:
        raise StepError(
            f"no user has an interaction since {declared.active_since}: set"
            " batch_users.active_since to an earlier day",
        )
    return users, version


@contextmanager
def _open_interaction_times(work: Work) -> Iterator[tuple[pl.LazyFrame, int | None]]:
    """USER_ID and TIMESTAMP of all interactions, and the bytes of their file.

    They are only each user's last, without the bytes, if Spark wrote the small file of these, so
    that the interactions need not be downloaded.
    """
    uri = work.files.interactions
    known = work.files.users_of_interactions.table()
    if known is not None:
        yield known.lazy(), None
        return
    if work.storage.store.head(uri) is None:
        raise StorageError(f"there is no {uri}: materialize interactions first")
    with work.storage.local_file(uri) as path:
        yield scan_interactions(path), path.stat().st_size


@dataclass(frozen=True)
class Batch:
    """Users for one batch inference. input: the URI of their file or files; version: of these."""

    recipe: str
    solution_version_arn: str
    users: pl.Series
    input: str
    version: str


def find_batches(
    work: Work, model: ModelRecord, batch_users: pl.LazyFrame, users_version: str
) -> list[Batch]:
    """The batches, the model's first.

    batch_users: the content of the users' file.
    users_version: the version of that file.
    Raises StepError.
    """
    pipeline, storage = work.pipeline, work.storage
    if pipeline.experiment is None:
        files = work.files.batch_users
        users = batch_users.select(USER_FIELD).collect(engine="streaming").get_column(USER_FIELD)
        recipe, arn = pipeline.solution.recipe, model.solution_version_arn
        return [Batch(recipe, arn, users, files.input(), users_version)]
    lines = batch_users.collect(engine="streaming")
    arm = assign_arms(lines.get_column(USER_FIELD), pipeline.experiment)
    found = []
    for name, recipe, arn in _list_models(work, model):
        of_arm = lines.filter(arm == name)
        if not of_arm.height:
            continue
        files = UsersFiles(storage.store, storage.uri(pipeline.places.arm_users(name)))
        files.publish(of_arm, batch_files.MAX_INPUT_RECORDS)
        version, _ = measure_users(of_arm)
        found.append(Batch(recipe, arn, of_arm.get_column(USER_FIELD), files.input(), version))
    if not found:
        raise StepError(
            f"all {lines.height} users are in the control, which gets no lists: set a lower"
            " experiment.control_share",
        )
    return found


def _list_models(work: Work, model: ModelRecord) -> list[tuple[str, str, str]]:
    """The arm, recipe and solution version's ARN of each model."""
    assert work.pipeline.experiment is not None
    models = [(MODEL, work.pipeline.solution.recipe, model.solution_version_arn)]
    if work.pipeline.experiment.control == "popular":
        if model.popularity_version_arn is None:
            raise StepError(
                "an older batchrec trained popularity and did not note it: materialize"
                " solution_version, then this asset again",
            )
        models.append((CONTROL, POPULARITY_COUNT, model.popularity_version_arn))
    return models


def keep_users_without_lists(
    work: Work, version: str, batch_users: pl.LazyFrame, table: Path
) -> None:
    """Keep, for an experiment's edition of this version, which of the requested users have no rows
    in the table: the outcomes count them too. Raises StorageError."""
    listed = pl.scan_parquet(table, glob=False).filter(rank=1).select("user_id")
    requested = batch_users.select(user_id=USER_FIELD)
    without = requested.join(listed, on="user_id", how="anti").sort("user_id")
    key = work.pipeline.places.users_without_lists(version)
    work.files.write_parquet(key, without.collect(engine="streaming"))


def read_users_without_lists(work: Work, edition: Edition) -> pl.Series:
    """Which requested users an experiment's edition has no rows of. Raises StorageError."""
    fix = "delete it: then the users without lists do not count in this edition's outcomes"
    found = work.files.parquet(work.pipeline.places.users_without_lists(edition.version), fix)
    if found is None:
        return pl.Series("user_id", [], pl.String)
    return found.get_column("user_id")


def forget_users_without_lists(work: Work) -> None:
    """Delete what was kept for editions that are no longer kept themselves. Raises StorageError."""
    storage, key = work.storage, work.pipeline.places.users_without_lists
    folder = storage.uri(key("")).rpartition("/")[0] + "/"
    if there := storage.store.list(folder):
        wanted = {storage.uri(key(version)) for version in work.files.table.versions()}
        for found in there:
            if found.uri not in wanted:
                storage.store.delete(found.uri)
