"""Finds the users to recommend to: all of the interactions, the active ones, or a list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.batch_files import measured
from batchrec_dagster.personalize.schemas import scan_interactions
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import SourceError
from batchrec_dagster.preparation.users import check_limits, distinct_users, listed_users
from batchrec_dagster.steps.raw_files import open_source
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.paths import UsersOfInteractions
from batchrec_dagster.storage.resource import StorageResource, storage_errors


@dataclass(frozen=True)
class BatchUsersTable:
    """The users, each once, in order of their id: userId, and filterValues where the filter has
    placeholders; and the version of the input they become."""

    users: pl.DataFrame
    version: str


def find_batch_users(
    pipeline: Pipeline, storage: StorageResource, project: Path
) -> BatchUsersTable:
    """The users as declared; a relative path of a list starts at the project's folder. Raises
    dg.Failure."""
    declared = pipeline.batch_users
    filter_values = pipeline.recommendations.line_filter_values
    with storage_errors(PreparationError, SourceError):
        if declared.source is None:
            with _interaction_times(storage, pipeline.places.interactions) as times:
                users = distinct_users(times, declared.since)
        else:
            with open_source(parse_source(declared.source), storage, project) as files:
                users = listed_users(files, declared.column, pipeline.ratings.all_null_values)
        if filter_values:
            # A batch inference job reads the values from its input; here all users have the same.
            values = [pl.lit(value).alias(name) for name, value in filter_values.items()]
            users = users.with_columns(filterValues=pl.struct(values))
        version, size = measured(users)
        check_limits(users.height, size)
    if not users.height:
        raise dg.Failure(
            f"no user has an interaction since {declared.active_since}: set"
            " batch_users.active_since to an earlier day",
            allow_retries=False,
        )
    return BatchUsersTable(users, version)


@contextmanager
def _interaction_times(storage: StorageResource, key: str) -> Iterator[pl.LazyFrame]:
    """USER_ID and TIMESTAMP of all interactions; only each user's last, if Spark wrote the small
    file of these, so that the interactions need not be downloaded."""
    uri = storage.uri(key)
    known = UsersOfInteractions(storage.store, uri).table()
    if known is not None:
        yield known.lazy()
        return
    if storage.store.head(uri) is None:
        raise StorageError(f"there is no {uri}: materialize interactions first")
    with storage.local_file(uri) as path:
        yield scan_interactions(path)
