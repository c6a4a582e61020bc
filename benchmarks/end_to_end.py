"""Time of the whole movielens job in Dagster, from ratings to published table, by step.

    python benchmarks/end_to_end.py [--rounds 3] [--out end_to_end.json]

It runs in this process in a new folder. Work is the time of the data steps and of Personalize's
jobs, from creation to last update; overlapping work counts once. The rest is Dagster's: events,
checks, tables, polling and waiting. The output is the round with the median total.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from report import RESULTS, table, write

import batchrec_dagster
from batchrec_dagster.cli.project import STORAGE
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.loading import load_pipelines

JOB = "movielens_refresh"
DATA_STEPS = ("raw_ratings", "raw_items", "interactions", "items", "batch_users")
REST = "Dagster's part"
Span = tuple[float, float]  # epoch seconds
QUIET = {"python_logs": {"python_log_level": "WARNING"}}


def run(home: Path) -> dict[str, float]:
    """Seconds of each piece of work, of Dagster's part and of all."""
    os.environ["BATCHREC_HOME"] = str(home)
    deployment = Deployment.from_environment(os.environ)
    pipelines = load_pipelines(Path(batchrec_dagster.__file__).parent)
    job = pipelines.resolve_job_def(JOB)
    own = home / "dagster"
    own.mkdir()
    # As `batchrec run` keeps its history.
    os.environ["DAGSTER_HOME"] = str(own)
    settings = {**QUIET, **yaml.safe_load(STORAGE)}
    with dg.DagsterInstance.local_temp(str(own), overrides=settings) as instance:
        began = time.perf_counter()
        result = job.execute_in_process(instance=instance)
        total = time.perf_counter() - began
        ends = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    work: dict[str, list[Span]] = {}
    for end in ends:
        event = end.get_dagster_event()
        asset = (event.step_key or "").rpartition("__")[2]
        if asset in DATA_STEPS:
            taken = event.step_success_data.duration_ms / 1000
            work[f"data: {asset}"] = [(end.timestamp - taken, end.timestamp)]
    work |= dict(jobs(deployment.personalize_resource.client))
    everything = [span for spans in work.values() for span in spans]
    return {
        **{name: covered(spans) for name, spans in work.items()},
        REST: total - covered(everything),
        "all": total,
    }


def jobs(client: Any) -> Iterator[tuple[str, list[Span]]]:
    """Personalize's jobs with their start and end."""
    found = {
        "import": client.list_dataset_import_jobs()["datasetImportJobs"],
        "training": client.list_solution_versions()["solutionVersions"],
        "inference": client.list_batch_inference_jobs()["batchInferenceJobs"],
        "segments": client.list_batch_segment_jobs()["batchSegmentJobs"],
    }
    for name, resources in found.items():
        moments = [(one["creationDateTime"], one["lastUpdatedDateTime"]) for one in resources]
        if moments:
            yield (
                f"Personalize: {name}",
                [(begun.timestamp(), done.timestamp()) for begun, done in moments],
            )


def covered(spans: list[Span]) -> float:
    """Seconds in which at least one of them was at work."""
    seconds, reached = 0.0, -math.inf
    for begun, done in sorted(spans):
        seconds += max(0.0, done - max(begun, reached))
        reached = max(reached, done)
    return seconds


def main() -> None:
    """Run, take the median, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "end_to_end.json")
    asked = parser.parse_args()
    rounds = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(run(Path(folder)))
    seconds = sorted(rounds, key=lambda one: one["all"])[len(rounds) // 2]
    rows = [
        {"": name, "seconds": f"{taken:.2f}", "share": f"{taken / seconds['all']:.0%}"}
        for name, taken in seconds.items()
    ]
    print(table(f"{JOB}, in one process", rows))
    write(asked.out, {"job": JOB, "seconds": seconds, "rounds": rounds})


if __name__ == "__main__":
    main()
