"""batch_users: whom Personalize recommends to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.interactions import BatchUsers
from batchrec_dagster.personalize.batch_input import measured
from batchrec_dagster.personalize.datasets import USER_ID, scan_interactions
from batchrec_dagster.pipeline.ui import (
    PREPARED,
    asset_args,
    column_lineage,
    column_schema,
    preview,
    sample,
)
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import SourceError, hide_query
from batchrec_dagster.preparation.users import check_limits, distinct_users, listed_users
from batchrec_dagster.steps.raw_files import open_source
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.user_stats import UsersOfInteractions

CODE_VERSION = "2"
COLUMNS = {
    "userId": ("string", "The user's id."),
    "filterValues": ("struct", "What stands for the placeholders of recommendations.filter."),
}


def batch_users(pipeline: Pipeline, project: Path = Path()) -> dg.AssetsDefinition:
    """The asset; the relative path of a list starts at the project's folder."""
    wanted = pipeline.batch_users
    filter_values = pipeline.recommendations.line_filter_values
    # A job takes the values from its input, the same for every user here.
    values = [pl.lit(value).alias(name) for name, value in filter_values.items()]

    of_interactions = [("interactions", USER_ID)] if wanted.source is None else []
    made_of = {"userId": of_interactions, "filterValues": []}

    @dg.asset(
        **asset_args(
            pipeline,
            description=f"Whom to make a list for. {_whom(wanted)}, once, as the JSON Lines that a"
            " batch inference job takes.",
            kinds={"json"},
            stage=PREPARED,
            storage_key=pipeline.places.batch_users,
            code_version=_with(f"{CODE_VERSION}-{fingerprint(wanted)}", filter_values),
            io_manager="batch_users_io",
        ),
        deps=[dg.AssetKey([pipeline.name, "interactions"])],
    )
    def batch_users(storage: StorageResource) -> dg.MaterializeResult[pl.DataFrame]:
        started = time.monotonic()
        try:
            if wanted.source is None:
                with _times_of_users(storage, pipeline.places.interactions) as times:
                    users = distinct_users(times, wanted.since)
            else:
                with open_source(parse_source(wanted.source), storage, project) as files:
                    users = listed_users(files, wanted.column)
            if values:
                users = users.with_columns(filterValues=pl.struct(values))
            version, size = measured(users)
            check_limits(users.height, size)
        except (PreparationError, SourceError, StorageError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        if not users.height:
            raise dg.Failure(
                f"there are no users with an interaction since {wanted.active_since}: set"
                " batch_users.active_since to an earlier day",
                allow_retries=False,
            )
        return dg.MaterializeResult(
            value=users,
            data_version=dg.DataVersion(version),
            metadata={
                "preview": preview(f"**{users.height:,} users** get a list."),
                "dagster/row_count": users.height,
                "dagster/column_schema": column_schema(COLUMNS, users.columns),
                "dagster/column_lineage": column_lineage(pipeline, made_of, users.columns),
                "users": users.height,
                "filter_values": filter_values,
                "sample": sample(users.select("userId").head(5)),
                "seconds": time.monotonic() - started,
            },
        )

    return batch_users


@contextmanager
def _times_of_users(storage: StorageResource, key: str) -> Iterator[pl.LazyFrame]:
    """USER_ID and TIMESTAMP: the last of each user, where Spark has written that beside the
    interactions at this key, so that these need not come to this machine; else all."""
    uri = storage.uri(key)
    known = UsersOfInteractions(storage.store, uri).table()
    if known is not None:
        yield known.lazy()
        return
    if storage.store.head(uri) is None:
        raise StorageError(f"there is no {uri}: materialize interactions first")
    with storage.local_file(uri) as path:
        yield scan_interactions(path)


def _whom(wanted: BatchUsers) -> str:
    if wanted.source is not None:
        return f"Every user of {hide_query(wanted.source)}"
    since = "" if wanted.active_since is None else f" since {wanted.active_since}"
    return f"Every user of the interactions{since}"


def _with(version: str, filter_values: dict[str, str]) -> str:
    return f"{version}-{fingerprint(filter_values)}" if filter_values else version
