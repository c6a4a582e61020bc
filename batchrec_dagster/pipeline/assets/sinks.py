"""recommendations_in_postgres, recommendations_in_dynamodb, recommendations_export: the lists where
people use them. One that fails takes nothing back and keeps no other from going on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint, sinks
from batchrec_dagster.pipeline.ui import WRITES_TO, OwnArguments, own_asset_args, preview
from batchrec_dagster.sinks import Counts, SinkError, SinkUnavailableError, dynamodb, postgres
from batchrec_dagster.sinks.export import Export, export
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"

# Not the assets' own policy: by that one, Dagster would start again what somebody cancels.
RETRIES = dg.RetryPolicy(
    max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)


def sink_assets(pipeline: Pipeline, project: Path = Path()) -> list[dg.AssetsDefinition]:
    """The assets of the sinks that are declared; a relative path starts at the project's folder."""
    declared = pipeline.sinks
    return [
        *([in_postgres(pipeline, declared.postgres)] if declared.postgres else []),
        *([in_dynamodb(pipeline, declared.dynamodb)] if declared.dynamodb else []),
        *([exported(pipeline, declared.export, project)] if declared.export else []),
    ]


def in_postgres(pipeline: Pipeline, sink: sinks.Postgres) -> dg.AssetsDefinition:
    """The asset; the URL is read from the environment when it runs."""

    @dg.asset(
        **_described(
            pipeline,
            sink,
            f"The lists in the PostgreSQL table {sink.table}, replaced in one transaction: readers"
            " see the old ones or the new.",
            "postgres",
        ),
        metadata={WRITES_TO: sink.place},
    )
    def recommendations_in_postgres(
        context: dg.AssetExecutionContext, recommendations: pl.LazyFrame
    ) -> dg.MaterializeResult[None]:
        started = time.monotonic()
        with _explained(context, "postgres"):
            written = postgres.replace(recommendations, postgres_target(pipeline, sink))
        return _result(
            written.counts,
            started,
            table=f"{written.schema}.{sink.table}",
            database=written.database,
        )

    return recommendations_in_postgres


def in_dynamodb(pipeline: Pipeline, sink: sinks.DynamoDb) -> dg.AssetsDefinition:
    """The asset."""

    @dg.asset(
        **_described(
            pipeline,
            sink,
            f"The lists in the DynamoDB table {sink.table}, an item for each user; users who are"
            " gone are removed.",
            "dynamodb",
        ),
        metadata={WRITES_TO: sink.place},
    )
    def recommendations_in_dynamodb(
        context: dg.AssetExecutionContext, recommendations: pl.LazyFrame, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        started = time.monotonic()
        with _explained(context, "dynamodb"):
            lists = dynamodb_lists(pipeline, sink, storage)
            written = lists.write(recommendations, context.run.run_id)
        if not written.expires:
            context.log.warning(
                f"the time to live of {sink.table} is off: {dynamodb.switch_on(sink.table)}"
            )
        return _result(written.counts, started, table=sink.table, users_removed=written.removed)

    return recommendations_in_dynamodb


def exported(pipeline: Pipeline, sink: sinks.Export, project: Path) -> dg.AssetsDefinition:
    """The asset."""
    how = export_format(sink)
    path = export_path(sink, project)

    @dg.asset(
        **_described(
            pipeline,
            sink,
            f"The lists in one file ({how.format}, {how.rows.replace('_', ' ')}), such as a mailing"
            " tool takes in.",
            "csv" if how.format == "csv" else "json",
        ),
        metadata={WRITES_TO: f"sinks.export.path: {path}"} if path else {},
    )
    def recommendations_export(
        context: dg.AssetExecutionContext, recommendations: pl.LazyFrame, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        started = time.monotonic()
        store, uri = export_file(path or storage.uri(pipeline.places.export(how.filename)), storage)
        with _explained(context, "export"):
            written = export(recommendations, how, store, uri)
        return _result(
            written.counts,
            started,
            file=str(store.local_path(uri) or uri),
            lines=written.lines,
            bytes=written.size,
            cells_made_harmless=written.cells_made_harmless,
        )

    return recommendations_export


def postgres_target(pipeline: Pipeline, sink: sinks.Postgres) -> postgres.Target:
    """The table, with the URL of the environment. Raises SinkError."""
    url = dg.EnvVar(sink.url_env).get_value()
    if not url:
        raise SinkError(
            f"the environment variable {sink.url_env} is not set: set it to"
            " postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    return postgres.Target(url, sink.table, sink.schema_name, pipeline.name)


def dynamodb_lists(
    pipeline: Pipeline, sink: sinks.DynamoDb, storage: StorageResource
) -> dynamodb.Lists:
    """The lists in the table."""
    return dynamodb.Lists(
        storage.client("dynamodb"),
        sink.table,
        sink.ttl_days,
        storage.store,
        storage.uri(pipeline.places.users_in_dynamodb(sink.table)),
        owner=f"{pipeline.name} in {storage.uri('')}",
    )


def export_format(sink: sinks.Export) -> Export:
    """How the file is written."""
    return Export(sink.format, sink.rows, sink.bom)


def export_path(sink: sinks.Export, project: Path) -> str | None:
    """The whole path or URI that the sink names; None where it is a place in the storage."""
    if sink.path is None or sink.path.startswith("s3://"):
        return sink.path
    return str((project / Path(sink.path).expanduser()).resolve())


def export_file(path: str, storage: StorageResource) -> tuple[ObjectStore, str]:
    """The store of a whole path or URI, and its URI there."""
    if path.startswith("s3://"):
        return storage.store, path
    return ObjectStore({"local": Path(path).parent}), f"s3://local/{Path(path).name}"


def _described(pipeline: Pipeline, sink: dg.Model, description: str, kind: str) -> OwnArguments:
    """The arguments of `@dg.asset`."""
    return own_asset_args(
        pipeline,
        description=description,
        kinds={kind},
        code_version=f"{CODE_VERSION}-{fingerprint(sink)}",
    )


@contextmanager
def _explained(context: dg.AssetExecutionContext, sink: str) -> Iterator[None]:
    """What may pass is tried again, later each time; what needs somebody's hand is a failure."""
    try:
        yield
    except SinkUnavailableError as error:
        if context.retry_number >= RETRIES.max_retries:
            raise dg.Failure(f"sinks.{sink}: {error}", allow_retries=False) from error
        context.log.warning(f"sinks.{sink}: {error}; trying again")
        raise dg.RetryRequested(
            RETRIES.max_retries, RETRIES.calculate_delay(context.retry_number + 1)
        ) from error
    except SinkError as error:
        raise dg.Failure(f"sinks.{sink}: {error}", allow_retries=False) from error


def _result(counts: Counts, started: float, **told: Any) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        metadata={
            "preview": preview(f"**{counts.rows:,} rows** for {counts.users:,} users are there."),
            "dagster/row_count": counts.rows,
            "users": counts.users,
            **told,
            "seconds": time.monotonic() - started,
        }
    )
