"""interactions: what Personalize learns from."""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.datasets import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    csv_types,
    interactions_columns,
)
from batchrec_dagster.pipeline.assets.spark_interactions import (
    checks,
    first_rows,
    prepare_here,
    prepare_on_aws,
)
from batchrec_dagster.pipeline.checks import published, specs, stopped
from batchrec_dagster.pipeline.ui import (
    PREPARED,
    asset_args,
    column_lineage,
    column_schema,
    preview,
    sample,
    table,
)
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.polars.prepare import Preparation, opened
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import SourceError
from batchrec_dagster.preparation.spark.task import Done
from batchrec_dagster.steps.checks import enough, plausible
from batchrec_dagster.steps.raw_files import RawRecord, open_raw_files
from batchrec_dagster.steps.spark_jobs import SparkEngine, spark_engine
from batchrec_dagster.storage.io_managers import Prepared
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "2"

COLUMNS = {
    USER_ID: ("string", "The user's id, as in the ratings file."),
    ITEM_ID: ("string", "The item's id, as in the ratings file."),
    TIMESTAMP: ("long", "When, in epoch seconds."),
    EVENT_TYPE: ("string", "What kind of interaction; a filter on interactions goes by it."),
    EVENT_VALUE: ("float", "A number that belongs to the event; may be missing."),
}


# Which column of the ratings each one is.
ROLES = {
    USER_ID: "user",
    ITEM_ID: "item",
    TIMESTAMP: "timestamp",
    EVENT_TYPE: "event_type",
    EVENT_VALUE: "event_value",
}


def interactions(pipeline: Pipeline, project: Path = Path()) -> dg.AssetsDefinition:
    """The asset; the relative path of a source read in place starts at the project's folder."""
    ratings, rules, spark = pipeline.ratings, pipeline.rules, spark_engine(pipeline.preparation)
    source = parse_source(ratings.source)
    columns = interactions_columns(event_type=rules.event_type, event_value=pipeline.event_value)

    @dg.asset(
        **asset_args(
            pipeline,
            description="What each user did with which item, and when: the ratings that count, as"
            f" the CSV file that Personalize imports and learns from. {_rule(rules)}",
            kinds={"polars" if spark is None else "spark", "csv"},
            stage=PREPARED,
            storage_key=pipeline.places.interactions,
            code_version=f"{CODE_VERSION}-{fingerprint(ratings.reading, rules)}",
            io_manager="interactions_io",
        ),
        check_specs=specs(
            "interactions",
            pipeline.name,
            enough_interactions="There are as many interactions and users as Personalize needs.",
            timestamps_plausible="The timestamps lie between 1980 and now, in seconds.",
        ),
    )
    def interactions(
        context: dg.AssetExecutionContext, raw_ratings: dict[str, Any], storage: StorageResource
    ) -> Iterator[Any]:
        started = time.monotonic()
        raw = RawRecord.from_json(raw_ratings)
        if spark is not None and spark.on_aws:
            yield from _on_aws(context, spark, pipeline, storage, raw, started)
            return
        told: Mapping[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            written, users = Path(folder) / "interactions.csv", Path(folder) / "users.parquet"
            try:
                with open_raw_files(raw, source, storage, project) as files:
                    done: Preparation | Done
                    if spark is not None:
                        done, told = prepare_here(
                            context, spark, pipeline, storage, files, written, users
                        )
                    else:
                        with opened(files, ratings.reading, rules) as read:
                            done = read.write_interactions(written)
            except (PreparationError, SourceError, StorageError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            kept = pl.scan_csv(written, schema=csv_types(columns), glob=False)
            counts = count_rows(kept)
            version = file_version(written)
            _log(context, done, started)
            yield from published(
                [
                    enough(counts.rows, counts.users, counts.users_with_two),
                    plausible(
                        counts.earliest, counts.latest, done.timestamp_unit, datetime.now(UTC)
                    ),
                ],
                dg.MaterializeResult(
                    value=written if spark is None else Prepared(written, users, version),
                    data_version=dg.DataVersion(version),
                    metadata={
                        **_counted(pipeline, raw, done, columns),
                        "engine": pipeline.preparation.engine,
                        **told,
                        "users": counts.users,
                        "items": counts.items,
                        "sample": sample(kept.head(5).collect()),
                        "seconds": time.monotonic() - started,
                    },
                ),
            )

    return interactions


def _on_aws(
    context: dg.AssetExecutionContext,
    engine: SparkEngine,
    pipeline: Pipeline,
    storage: StorageResource,
    raw: RawRecord,
    started: float,
) -> Iterator[Any]:
    """The asset's results, of data that never come to this machine."""
    try:
        (done, told), stored, users = prepare_on_aws(context, engine, pipeline, storage, raw)
        first = first_rows(stored, storage)
    except (PreparationError, StorageError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    _log(context, done, started)
    version = done.sha256[:16]
    checked = checks(done, datetime.now(UTC))
    try:
        yield from stopped(checked)
    except dg.Failure:
        # Of what is not published nothing stays.
        with suppress(StorageError):
            for uri in (stored, users):
                storage.store.delete(uri)
        raise
    yield from published(
        checked,
        dg.MaterializeResult(
            value=Prepared(stored, users, version),
            data_version=dg.DataVersion(version),
            metadata={
                **_counted(pipeline, raw, done, first.columns),
                "engine": pipeline.preparation.engine,
                **told,
                "users": done.users,
                "items": done.items,
                "sample": sample(first),
                "seconds": time.monotonic() - started,
            },
        ),
    )


def _log(context: dg.AssetExecutionContext, done: Preparation | Done, started: float) -> None:
    seconds = time.monotonic() - started
    context.log.info(
        f"kept {done.rows_kept:,} of {done.rows_read:,} rows in {seconds:.1f} s,"
        f" {done.rows_read / seconds:,.0f} a second"
    )
    for reason, count in done.left_out.items():
        context.log.info(f"left out {count:,} rows: {reason}")
    for example in done.bad_row_examples:
        context.log.warning(f"left out {example}")


def _counted(
    pipeline: Pipeline, raw: RawRecord, done: Preparation | Done, columns: list[str]
) -> dict[str, Any]:
    made_of = {
        column: [("raw_ratings", raw.columns[role])] if role in raw.columns else []
        for column, role in ROLES.items()
    }
    # The most first, whichever engine counted.
    most = sorted(done.left_out.items(), key=lambda told: (-told[1], told[0]))
    left_out = [[reason, f"{count:,}"] for reason, count in most if count]
    return {
        "preview": preview(
            f"**{done.rows_kept:,} interactions** of {done.rows_read:,} rows.",
            *([table(["left out because", "rows"], left_out)] if left_out else []),
        ),
        "dagster/row_count": done.rows_kept,
        "dagster/column_schema": column_schema(COLUMNS, columns),
        "dagster/column_lineage": column_lineage(pipeline, made_of, columns),
        "rows_read": done.rows_read,
        "rows_left_out": done.rows_read - done.rows_kept,
        "left_out_by_reason": dict(done.left_out),
        "bad_row_examples": list(done.bad_row_examples),
        "timestamp_unit": done.timestamp_unit,
    }


def file_version(path: Path) -> str:
    """16 hex digits of the SHA-256 of the file, as StorageResource.version gives of an object."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _rule(rules: Rules) -> str:
    if rules.min_rating is None:
        return "All ratings count." if rules.filter is None else f"Kept are: {rules.filter}."
    return f"Ratings below {rules.min_rating:g} are left out."
