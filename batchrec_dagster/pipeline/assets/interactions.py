"""interactions: the CSV file that Personalize imports and learns from."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.pipeline.declare_asset import PREPARED, asset
from batchrec_dagster.pipeline.reuse import PREPARED_BEFORE, MadeOf
from batchrec_dagster.pipeline.run_step import published
from batchrec_dagster.pipeline.ui import preview, sample, table_facts
from batchrec_dagster.preparation.polars.prepare import Preparation
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.spark.task import Done
from batchrec_dagster.reporting.markdown import table
from batchrec_dagster.steps.interactions import PreparedInteractions, prepare_interactions
from batchrec_dagster.steps.raw_files import RawRecord
from batchrec_dagster.storage.io_managers import Stored
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.user_stats import interactions_version

CODE_VERSION = "2"

COLUMNS = {
    USER_ID: ("string", "The user's id, as in the ratings file."),
    ITEM_ID: ("string", "The item's id, as in the ratings file."),
    TIMESTAMP: ("long", "When, in epoch seconds."),
    EVENT_TYPE: ("string", "The kind of interaction, for filters on interactions."),
    EVENT_VALUE: ("float", "A number that belongs to the event; may be missing."),
}

# The role in ratings.columns that each column comes from.
ROLES = {
    USER_ID: "user",
    ITEM_ID: "item",
    TIMESTAMP: "timestamp",
    EVENT_TYPE: "event_type",
    EVENT_VALUE: "event_value",
}


def interactions(pipeline: Pipeline, project: Path = Path()) -> dg.AssetsDefinition:
    """The asset; a relative path of a source read in place starts at the project's folder."""
    ratings, rules = pipeline.ratings, pipeline.rules
    engine = pipeline.preparation.engine

    @asset(
        pipeline,
        description="What each user did with which item, and when: the ratings that count, as"
        f" the CSV file that Personalize imports and learns from. {_rule(rules)}",
        kinds={"polars" if engine == "local" else "spark", "csv"},
        stage=PREPARED,
        storage_key=pipeline.places.interactions,
        code_version=f"{CODE_VERSION}-{fingerprint(ratings.reading, rules)}",
        io_manager="interactions_io",
        checks={
            "enough_interactions": "There are as many interactions and users as Personalize needs.",
            "timestamps_plausible": "The timestamps are between 1980 and now, in seconds.",
            "few_event_types": "There are as few event types as Personalize allows.",
        },
    )
    def interactions(
        context: dg.AssetExecutionContext, raw_ratings: dict[str, Any], storage: StorageResource
    ) -> Iterator[Any]:
        started = time.monotonic()
        raw = RawRecord.from_json(raw_ratings)
        made_of = MadeOf(context, (raw.version, *raw.columns.values()))
        uri = storage.uri(pipeline.places.interactions)
        if same := made_of.earlier(
            lambda: interactions_version(storage, uri), Stored(uri), PREPARED_BEFORE
        ):
            yield same
            return
        with prepare_interactions(context, raw, pipeline, storage, project) as prepared:
            _log(context, prepared.result, time.monotonic() - started)
            yield from published(
                prepared.checks,
                dg.MaterializeResult(
                    value=prepared.value,
                    data_version=dg.DataVersion(prepared.version),
                    metadata={
                        **_metadata(pipeline, raw, prepared),
                        "engine": engine,
                        **made_of.metadata(prepared.version, prepared.checks),
                    },
                ),
            )

    return interactions


def _log(context: dg.AssetExecutionContext, result: Preparation | Done, seconds: float) -> None:
    context.log.info(
        f"kept {result.rows_kept:,} of {result.rows_read:,} rows in {seconds:.1f} s"
        f" ({result.rows_read / seconds:,.0f} rows a second)"
    )
    for reason, count in result.left_out.items():
        context.log.info(f"left out {count:,} rows: {reason}")
    for example in result.bad_row_examples:
        context.log.warning(f"left out {example}")


def _metadata(pipeline: Pipeline, raw: RawRecord, prepared: PreparedInteractions) -> dict[str, Any]:
    result, columns = prepared.result, prepared.sample.columns
    lineage = {
        column: [("raw_ratings", raw.columns[role])] if role in raw.columns else []
        for column, role in ROLES.items()
    }
    # Most rows first, so that both engines show the same order.
    reasons = sorted(result.left_out.items(), key=lambda reason: (-reason[1], reason[0]))
    left_out = [[reason, f"{count:,}"] for reason, count in reasons if count]
    return {
        "preview": preview(
            f"**{result.rows_kept:,} interactions** of {result.rows_read:,} rows.",
            *([table(["left out because", "rows"], left_out)] if left_out else []),
        ),
        **table_facts(pipeline, result.rows_kept, COLUMNS, lineage, columns),
        "rows_read": result.rows_read,
        "rows_left_out": result.rows_read - result.rows_kept,
        "left_out_by_reason": dict(result.left_out),
        "bad_row_examples": list(result.bad_row_examples),
        "timestamp_unit": result.timestamp_unit,
        **prepared.job,
        "users": prepared.users,
        "items": prepared.items,
        "sample": sample(prepared.sample),
    }


def _rule(rules: Rules) -> str:
    if rules.min_rating is None:
        return "All ratings count." if rules.filter is None else f"Only rows with {rules.filter}."
    return f"Ratings below {rules.min_rating:g} are left out."
