"""The asset recommendation_outcomes, which measures published lists, and recommendation_report.

Outcomes measure the users' interactions after each edition. The report is an HTML page.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.declare_asset import PipelineAsset, Step, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import (
    build_preview,
    build_sample,
    build_storage_links,
    build_table_metadata,
    to_dagster,
)
from batchrec_dagster.reporting.insight.outcomes import (
    NOTHING_YET,
    REPLAYED,
    describe_outcome,
    describe_result,
)
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.outcomes.outcomes import SCHEMA, Outcome

if TYPE_CHECKING:
    from batchrec_dagster.reporting.insight.page import Page
    from batchrec_dagster.steps.outcomes.outcomes import MeasuredOutcomes


CODE_VERSION = "1"
COLUMNS = {
    "edition": "The edition of the lists.",
    "since": "What the period starts with: the edition's publication, or the end of its data.",
    "start": "Only what happened after this counts.",
    "end": "Only what happened until then counts: the next edition, or the end of the data.",
    "experiment": "The experiment's name; empty without one.",
    "arm": "The users: model, or control in an experiment.",
    "list_length": "Items in the longest list.",
    "users": "Users with a list, or in a control without lists.",
    "active_users": "Those of them with a new interaction: an item that they did not have.",
    "interactions": "All their interactions in the period.",
    "new_interactions": "Those with an item that they did not have.",
    "on_list": "New interactions with an item on the user's list.",
    "hit_rate": "Share of active users who chose something from their list.",
    "recall": "Mean over active users: the share of their new interactions that was on their list.",
    "list_share": "Share of all new interactions that was on the user's list.",
    "gain": "hit_rate less popular_hit_rate.",
    "popular_hit_rate": "hit_rate if everyone had got the most popular items of that day.",
    "popular_recall": "recall of these popular items.",
    "popular_list_share": "list_share of these popular items.",
    "success": "The types of events that count alone; empty if all count.",
    "event_value": "The sum of EVENT_VALUE of events of success for a user in a day, if any.",
    "list_event_value": "The same of new interactions with an item on the user's list.",
    "popular_event_value": "list_event_value of these popular items.",
}
# The columns that Dagster plots over the runs.
PLOTTED = (
    "hit_rate",
    "recall",
    "list_share",
    "gain",
    "popular_hit_rate",
    "active_users",
    "users",
    "event_value",
    "list_event_value",
)


def recommendation_outcomes(published: ListTable) -> PipelineAsset:
    """Declare the asset of the outcomes of each published edition."""

    @asset_of(
        published,
        "recommendation_outcomes",
        description="What people did with the lists so far: each published edition against what"
        " its users did after it, compared with the most popular items of that day.",
        kinds={"report", "parquet"},
        deps=[asset_key(published, "interactions")],
        storage_key=published.keys.outcomes,
        code_version=f"{CODE_VERSION}-{fingerprint(*published.pipeline.popularity_settings)}",
        io_manager="parquet_io",
    )
    def recommendation_outcomes(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        # The imports are here, because they need SciPy and NumPy.
        from batchrec_dagster.steps.outcomes.arms import MODEL
        from batchrec_dagster.steps.outcomes.outcomes import measure_outcomes

        step = open_step(published.pipeline, context)
        outcomes = measure_outcomes(step, published)
        step.files.write_parquet(published.keys.outcomes, outcomes.table)
        model_outcomes = [outcome for outcome in outcomes.outcomes if outcome.arm == MODEL]
        newest = model_outcomes[-1] if model_outcomes else None
        lines = [*describe_outcome(newest)] if newest else [NOTHING_YET]
        if newest is not None and newest.since == "data":
            lines.append(REPLAYED)
        if outcomes.experiment is not None:
            lines += describe_result(outcomes.experiment)
        uri = step.files.uri(published.keys.outcomes)
        metadata = {
            "preview": build_preview(*map(escape, lines)),
            **_build_outcomes_metadata(outcomes, newest),
            **build_storage_links("table", step.storage, uri),
            "dagster/uri": uri,
        }
        return to_dagster(metadata, fingerprint(*outcomes.outcomes))

    return recommendation_outcomes


def _build_outcomes_metadata(
    outcomes: "MeasuredOutcomes", newest: Outcome | None
) -> dict[str, Any]:
    row = newest.row() if newest else {}
    columns = {name: (str(kind).lower(), _describe_column(name)) for name, kind in SCHEMA.items()}
    return {
        **build_table_metadata(len(outcomes.outcomes), columns),
        **{name: row[name] for name in ("edition", *PLOTTED) if row.get(name) is not None},
        **_build_lift_metadata(outcomes),
        "sample": build_sample(outcomes.table.tail(5).select(pl.col("*").exclude(pl.Datetime))),
    }


def _build_lift_metadata(outcomes: "MeasuredOutcomes") -> dict[str, float]:
    """Return the lift of the model's users over the experiment's control, with its interval."""
    effects = outcomes.experiment.effects if outcomes.experiment else []
    lift = effects[0].lift if effects else None
    if lift is None or lift.ends is None:
        return {}
    low, high = lift.ends
    return {"lift": lift.value, "lift_low": low, "lift_high": high}


def _describe_column(column: str) -> str:
    """Return the description of a column: a field of `Outcome`, or an end of its interval."""
    name, _, end = column.rpartition("_")
    if end in ("low", "high"):
        return f"The {'lower' if end == 'low' else 'upper'} end of the 95% interval of {name}."
    return COLUMNS[column]


def recommendation_report(
    published: ListTable, checks: Sequence[dg.AssetCheckSpec]
) -> PipelineAsset:
    """Declare the asset of the report, which shows these checks."""

    @_declare_report(published)
    def recommendation_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        # The imports are here, because they need SciPy and Jinja.
        from batchrec_dagster.pipeline.report import build_page
        from batchrec_dagster.reporting.stored_page import put_page

        step = open_step(published.pipeline, context)
        page = build_page(step, published, checks, context.instance)
        log = context.log.info if page.verdict.level == "good" else context.log.warning
        log(f"edition {page.edition.number} is live. {page.verdict}")
        html = put_page(step.files_of(published), page)
        uri = step.files.uri(published.keys.report)
        metadata = {
            **_describe_page(page, html),
            **build_storage_links("report", step.storage, uri),
            "dagster/uri": uri,
        }
        return to_dagster(metadata)

    return recommendation_report


def _declare_report(published: ListTable) -> Callable[[Step], PipelineAsset]:
    """Return the decorator that turns a step into the asset of the report."""
    required = (
        "solution_version",
        "interactions",
        "batch_users",
        "recommendations",
        "recommendation_outcomes",
    )
    pipeline = published.pipeline
    keys = [asset_key(published, name) for name in required]
    if pipeline.has_titles:
        keys.append(asset_key(pipeline, "item_titles"))
    settings = fingerprint(published.description, pipeline.report)
    return asset_of(
        published,
        "recommendation_report",
        description="A page for people, in one HTML file: whether the lists can be sent, whom they"
        " reach, what changed, what people did, and people's history next to their list.",
        kinds={"report", "html"},
        deps=keys,
        code_version=f"{CODE_VERSION}-{settings}",
    )


def _describe_page(page: "Page", html: bytes) -> dict[str, Any]:
    """Return the metadata of the page."""
    people_shown, users = len(page.people.people), page.people.served
    return {
        "verdict": str(page.verdict),
        "open_findings": [str(finding) for finding in page.open_findings],
        "level": page.verdict.level,
        "bytes": len(html),
        "users": users,
        "people_shown": people_shown,
        "sampled": people_shown < users,
    }
