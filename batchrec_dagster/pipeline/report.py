"""Reads from Dagster what the page about a list says besides what the storage knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from batchrec_dagster.config import PublishedList
from batchrec_dagster.pipeline.ended_runs import read_ended_runs
from batchrec_dagster.reporting.insight.describe_list import describe_list
from batchrec_dagster.reporting.insight.nights import read_other_nights
from batchrec_dagster.reporting.insight.page import CheckResult, Page
from batchrec_dagster.reporting.markdown import unescape
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.edition import Level
from batchrec_dagster.storage.layout import ListFiles


def build_page(
    work: Work,
    published: PublishedList,
    checks: Sequence[dg.AssetCheckSpec],
    instance: dg.DagsterInstance,
) -> Page:
    """All that the page about a published list says. Raises UserError.

    checks: those of all that the list is made of.
    """
    remember_ended_runs(work.files_of(published), instance)
    results = read_check_results(instance, checks)
    names = {(result.asset, result.check) for result in results}
    missing = [
        f"{spec.name} of {spec.asset_key.path[-1]}"
        for spec in checks
        if (spec.asset_key.path[-1], spec.name) not in names
    ]
    return describe_list(work, published, results, missing)


def remember_ended_runs(files: ListFiles, instance: dg.DagsterInstance) -> None:
    """Record the runs that Dagster says failed and that are not recorded, because Dagster may
    forget them; their processes were killed, for example. Raises UserError."""
    recorded_ids = {night.run for night in read_other_nights(files)}
    for night in read_ended_runs(instance, files):
        if night.run not in recorded_ids:
            files.editions.add_night(night)


def read_check_results(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckSpec]
) -> list[CheckResult]:
    """The newest result of each check that has run."""
    results = []
    for spec in checks:
        record = instance.get_latest_asset_check_evaluation_record(spec.key)
        if record is None or record.event is None:
            continue
        evaluation = record.evaluation
        # A check that is planned in a run under way has no evaluation yet.
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
    """What the result of a check means for publication."""
    if evaluation.passed:
        return "good"
    is_error = evaluation.severity == dg.AssetCheckSeverity.ERROR
    return "refuse" if spec.blocking and is_error else "watch"
