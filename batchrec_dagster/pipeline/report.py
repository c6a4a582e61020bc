"""Data for a list's page that only Dagster knows: check results and runs that ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from batchrec_dagster.config import ListTable
from batchrec_dagster.editions.edition import Level
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.pipeline.ended_runs import read_ended_runs
from batchrec_dagster.reporting.insight.describe_list import describe_list
from batchrec_dagster.reporting.insight.nights import read_other_nights
from batchrec_dagster.reporting.insight.page import CheckResult, Page
from batchrec_dagster.reporting.markdown import unescape
from batchrec_dagster.steps.context import StepContext


def build_page(
    step: StepContext,
    published: ListTable,
    checks: Sequence[dg.AssetCheckSpec],
    instance: dg.DagsterInstance,
) -> Page:
    """Return the content of the page about a published list. Raises UserError.

    checks: the specs of all checks of the assets that the list is made from.
    """
    remember_ended_runs(step.files_of(published), instance)
    results = read_check_results(instance, checks)
    names = {(result.asset, result.check) for result in results}
    missing = [
        f"{spec.name} of {spec.asset_key.path[-1]}"
        for spec in checks
        if (spec.asset_key.path[-1], spec.name) not in names
    ]
    return describe_list(step, published, results, missing)


def remember_ended_runs(files: ListFiles, instance: dg.DagsterInstance) -> None:
    """Record failed and stopped runs that only Dagster knows, because Dagster may forget them.

    For example, such a run could not record itself because its process was killed. Raises
    UserError.
    """
    recorded_ids = {night.run for night in read_other_nights(files)}
    for night in read_ended_runs(instance, files):
        if night.run not in recorded_ids:
            files.editions.add_night(night)


def read_check_results(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckSpec]
) -> list[CheckResult]:
    """Return the newest result of each check that has run."""
    results = []
    for spec in checks:
        record = instance.get_latest_asset_check_evaluation_record(spec.key)
        if record is None or record.event is None:
            continue
        evaluation = record.evaluation
        # If a run under way has only planned the check, there is no evaluation yet.
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            results.append(
                CheckResult(
                    asset=spec.asset_key.path[-1],
                    check=spec.name,
                    level=_find_level(spec, evaluation),
                    text=unescape(evaluation.description or ""),
                    expectation=spec.description or "",
                    time=datetime.fromtimestamp(record.event.timestamp, UTC),
                )
            )
    return results


def _find_level(spec: dg.AssetCheckSpec, evaluation: dg.AssetCheckEvaluation) -> Level:
    """Return the consequence of a check's result for publication."""
    if evaluation.passed:
        return "good"
    is_error = evaluation.severity == dg.AssetCheckSeverity.ERROR
    return "refuse" if spec.blocking and is_error else "watch"
