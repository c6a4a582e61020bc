"""Dagster's history of runs, in a form for steps, which do not know Dagster."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg


@dataclass(frozen=True)
class DagsterRuns:
    """The `RunHistory` of a Dagster instance."""

    instance: dg.DagsterInstance

    def has_ended(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.is_finished

    def is_unfinished(self, run_id: str) -> bool:
        if not self.instance.has_run(run_id):
            return False
        _, retries = self.instance.get_run_group(run_id) or ("", [])
        return all(run.status != dg.DagsterRunStatus.SUCCESS for run in retries)


def find_root_run(context: dg.AssetExecutionContext) -> str:
    """Return the id of the original run, if this run is a retry, else this run's id."""
    return context.run.root_run_id or context.run.run_id


def find_run_start(context: dg.AssetExecutionContext) -> datetime | None:
    """Return the time at which the run started; None if Dagster does not know."""
    records = context.instance.get_run_records(dg.RunsFilter(run_ids=[context.run.run_id]))
    start = records[0].start_time if records else None
    return None if start is None else datetime.fromtimestamp(start, UTC)
