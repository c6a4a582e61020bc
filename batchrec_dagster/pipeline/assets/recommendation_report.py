"""recommendation_report: the page that people open in a browser."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.pipeline.declare_asset import asset
from batchrec_dagster.pipeline.ui import preview, stored
from batchrec_dagster.reporting.markdown import escaped
from batchrec_dagster.steps.items import shown_tables
from batchrec_dagster.storage.resource import StorageResource

if TYPE_CHECKING:
    from batchrec_dagster.steps.report import Report

CODE_VERSION = "1"


def recommendation_report(
    pipeline: Pipeline, checks: Sequence[dg.AssetCheckKey] = ()
) -> dg.AssetsDefinition:
    """The asset; the report shows the warnings of `checks`."""
    always = ("interactions", "batch_users", "recommendations", "recommendation_outcomes")
    keys = [pipeline.asset_key(name) for name in always]
    optional = [pipeline.asset_key(name) for name in shown_tables(pipeline)]
    shown = fingerprint(
        pipeline.description,
        pipeline.ratings.sources,
        pipeline.solution.recipe,
        *optional,
    )

    @asset(
        pipeline,
        description="A page for people, in one HTML file: how good the lists are, whom they"
        " reach, what they recommend, and each user's history next to their list.",
        kinds={"html"},
        storage_key=pipeline.places.report,
        code_version=f"{CODE_VERSION}-{shown}",
        io_manager="html_io",
        deps=[*keys, *optional],
    )
    def recommendation_report(
        context: dg.AssetExecutionContext,
        solution_version: dict[str, Any],
        storage: StorageResource,
    ) -> dg.MaterializeResult[str]:
        # SciPy and the charts: nothing else needs them.
        from batchrec_dagster.steps.report import build_report

        report = build_report(
            pipeline, solution_version, checks, storage, context.instance, context.run.run_id
        )
        context.log.info(report.facts.verdict.text)
        for warning in report.facts.warnings:
            context.log.warning(warning)
        return dg.MaterializeResult(
            value=report.html,
            metadata={
                **_metadata(report),
                **stored("report", storage, storage.uri(pipeline.places.report)),
            },
        )

    return recommendation_report


def _metadata(report: "Report") -> dict[str, Any]:
    people, warnings, verdict = report.facts.people, report.facts.warnings, report.facts.verdict
    shown = len(people.people)
    return {
        "preview": preview(
            f"**{escaped(verdict.text)}**",
            # Short paragraphs: the UI cuts long ones off next to the paths below.
            f"**{people.served:,} users** have a list.",
            f"{shown:,} of them are shown with their history.",
            *(f"{label}: {escaped(text)}" for label, text in report.facts.provenance.lines.items()),
            "\n".join(f"- {escaped(warning)}" for warning in warnings),
        ),
        "verdict": verdict.text,
        "judgement": verdict.judgement,
        "bytes": len(report.html.encode()),
        "users": people.served,
        "people_shown": shown,
        "sampled": shown < people.served,
        "warnings": len(warnings),
    }
