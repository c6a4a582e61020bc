"""The assets recommendation_outcomes, what people did with the lists, and recommendation_report.

The report is an HTML page.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.declare_asset import (
    AssetOptions,
    asset_options,
    preview_metadata,
    sample_metadata,
    storage_links,
    table_metadata,
)
from batchrec_dagster.pipeline.run_step import asset_step, get_work
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.reporting.outcomes import NOTHING_YET, REPLAYED, describe_outcome
from batchrec_dagster.steps.items import list_optional_tables
from batchrec_dagster.steps.outcomes import SCHEMA, Outcome
from batchrec_dagster.steps.records import ModelRecord

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.report import Report
    from batchrec_dagster.steps.outcomes import MeasuredOutcomes


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
# Dagster plots these over the runs.
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


def recommendation_outcomes(published: PublishedList) -> dg.AssetsDefinition:
    """The asset of what people did with each published edition."""

    @dg.asset(
        **asset_options(
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
    )
    @asset_step
    def recommendation_outcomes(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        # Imported here, because they need SciPy and NumPy.
        from batchrec_dagster.reporting.experiment import describe_result
        from batchrec_dagster.steps.arms import MODEL
        from batchrec_dagster.steps.outcomes import measure_outcomes

        work = get_work(published.pipeline, context)
        outcomes = measure_outcomes(work, published)
        model_outcomes = [outcome for outcome in outcomes.outcomes if outcome.arm == MODEL]
        newest = model_outcomes[-1] if model_outcomes else None
        lines = [*describe_outcome(newest)] if newest else [NOTHING_YET]
        if newest is not None and newest.since == "data":
            lines.append(REPLAYED)
        if outcomes.experiment is not None:
            lines += describe_result(outcomes.experiment)
        return dg.MaterializeResult(
            value=outcomes.table,
            data_version=dg.DataVersion(fingerprint(*outcomes.outcomes)),
            metadata={
                "preview": preview_metadata(*map(escape, lines)),
                **_outcomes_metadata(outcomes, newest),
                **storage_links("table", work.storage, work.storage.uri(published.keys.outcomes)),
            },
        )

    return recommendation_outcomes


def _outcomes_metadata(outcomes: "MeasuredOutcomes", newest: Outcome | None) -> dict[str, Any]:
    row = newest.row() if newest else {}
    columns = {name: (str(kind).lower(), _describe_column(name)) for name, kind in SCHEMA.items()}
    return {
        **table_metadata(len(outcomes.outcomes), columns),
        **{name: row[name] for name in ("edition", *PLOTTED) if row.get(name) is not None},
        **_lift_metadata(outcomes),
        "sample": sample_metadata(outcomes.table.tail(5).select(pl.col("*").exclude(pl.Datetime))),
    }


def _lift_metadata(outcomes: "MeasuredOutcomes") -> dict[str, float]:
    """How much more the users of the model do than the experiment's control, as a share."""
    effects = outcomes.experiment.effects if outcomes.experiment else []
    lift = effects[0].lift if effects else None
    if lift is None:
        return {}
    return {"lift": lift.value, "lift_low": lift.low, "lift_high": lift.high}


def _describe_column(column: str) -> str:
    name, _, end = column.rpartition("_")
    if end in ("low", "high"):
        return f"The {'lower' if end == 'low' else 'upper'} end of the 95% interval of {name}."
    return COLUMNS[column]


def recommendation_report(
    published: PublishedList, checks: Sequence[dg.AssetCheckSpec]
) -> dg.AssetsDefinition:
    """The asset of the report, which shows these checks."""

    @dg.asset(**_declare_report(published))
    @asset_step
    def recommendation_report(
        context: dg.AssetExecutionContext, solution_version: ModelRecord
    ) -> dg.MaterializeResult[Any]:
        return _build_report(published, context, solution_version, checks)

    return recommendation_report


def _declare_report(published: PublishedList) -> AssetOptions:
    """The options of the asset of the report."""
    required = ("interactions", "batch_users", "recommendations", "recommendation_outcomes")
    pipeline = published.pipeline
    keys = [asset_key(published, name) for name in required]
    optional = [asset_key(pipeline, name) for name in list_optional_tables(pipeline)]
    similar_items = pipeline.similar_items_list
    if similar_items is not None:
        optional.append(asset_key(similar_items, similar_items.asset))
    settings = fingerprint(
        published.description,
        pipeline.report,
        pipeline.ratings.sources,
        pipeline.solution.recipe,
        *optional,
    )
    return asset_options(
        published,
        "recommendation_report",
        description="A page for people, in one HTML file: how good the lists are, whom they"
        " reach, what they recommend, and each user's history next to their list.",
        kinds={"report", "html"},
        inputs=["solution_version"],
        deps=[*keys, *optional],
        storage_key=published.keys.report,
        code_version=f"{CODE_VERSION}-{settings}",
        io_manager="html_io",
    )


def _build_report(
    published: PublishedList,
    context: dg.AssetExecutionContext,
    newest_model: ModelRecord,
    checks: Sequence[dg.AssetCheckSpec],
) -> dg.MaterializeResult[Any]:
    """The page, with its metadata. Raises UserError.

    newest_model: its record.
    """
    # Imported here, because it needs SciPy.
    from batchrec_dagster.pipeline.report import build_report

    work = get_work(published.pipeline, context)
    report = build_report(
        work, published, newest_model, checks, context.instance, context.run.run_id
    )
    _log_verdict(context.log, report)
    for warning in report.facts.warnings:
        context.log.warning(warning)
    return dg.MaterializeResult(
        value=report.html,
        metadata={
            **_report_metadata(report),
            **storage_links("report", work.storage, work.storage.uri(published.keys.report)),
        },
    )


def _log_verdict(log: logging.Logger, report: "Report") -> None:
    """Log whether the published lists are safe to send, so that doubts stand out."""
    verdict = report.facts.verdict
    level = logging.INFO if verdict.judgement == "good" else logging.WARNING
    log.log(level, f"edition {report.facts.run.edition} is published. {verdict.text}")


def _report_metadata(report: "Report") -> dict[str, Any]:
    people, warnings, verdict = report.facts.people, report.facts.warnings, report.facts.verdict
    people_shown = len(people.people)
    return {
        "preview": preview_metadata(
            f"**{escape(verdict.text)}**",
            # Short paragraphs: the UI cuts long ones off next to the paths below.
            f"**{people.served:,} users** have a list.",
            f"{people_shown:,} of them are shown with their history.",
            *(f"{label}: {escape(text)}" for label, text in report.facts.provenance.lines.items()),
            "\n".join(f"- {escape(warning)}" for warning in warnings),
        ),
        "verdict": verdict.text,
        "judgement": verdict.judgement,
        "bytes": len(report.html.encode()),
        "users": people.served,
        "people_shown": people_shown,
        "sampled": people_shown < people.served,
        "warnings": len(warnings),
    }
