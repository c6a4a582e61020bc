"""What Dagster remembers of runs, for steps, which know no Dagster."""

from __future__ import annotations

from dataclasses import dataclass

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
