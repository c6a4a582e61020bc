"""Time of the demo's command by stage, in a new home and again on unchanged data.

    python benchmarks/end_to_end.py [--rounds 3] [--out end_to_end.json]

A round runs `batchrec run movielens` twice, as `make demo` does. The stages are Dagster's steps
and, within the steps, Personalize's jobs from creation to last update. The time in which jobs
overlap counts once. "Start and end" is the command's time outside the steps: to start two
processes, to import and load, and to print the result. CPU is the CPU time of all processes. The
output is the round whose first run took the median time, and the ratio of the time of its second
run to that of its first run.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from report import RESULTS, table, write

from batchrec_dagster.cli.dagster_home import open_dagster_instance
from batchrec_dagster.pipeline.deployment import Deployment

COMMAND = (str(Path(sys.executable).parent / "batchrec"), "run", "movielens")
Span = tuple[float, float]  # start and end in epoch seconds


@dataclass(frozen=True)
class Run:
    """Seconds of a run: in total, of CPU time, of each stage, and of Personalize's jobs."""

    all: float
    cpu: float
    stages: dict[str, float]
    jobs: dict[str, float]

    @property
    def seconds_around_stages(self) -> float:
        return self.all - sum(self.stages.values())


def run() -> Run:
    """Run the command in the home that BATCHREC_HOME names."""
    began, cpu = time.time(), measure_cpu_of_children()
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)
    took, cpu = time.time() - began, measure_cpu_of_children() - cpu
    with open_dagster_instance() as instance:
        (newest,) = instance.get_runs(limit=1)
        ends = instance.all_logs(newest.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    stages = {}
    for end in ends:
        event = end.get_dagster_event()
        asset = (event.step_key or "").rpartition("__")[2]
        stages[asset] = event.step_success_data.duration_ms / 1000
    client = Deployment.from_environment().personalize_resource.client
    job_seconds = {
        name: measure_covered([span for span in spans if span[0] > began])
        for name, spans in list_jobs(client)
    }
    return Run(
        took, cpu, stages, {name: seconds for name, seconds in job_seconds.items() if seconds}
    )


def measure_cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def list_jobs(client: Any) -> Iterator[tuple[str, list[Span]]]:
    """Yield the names of Personalize's jobs, with the start and end of each."""
    resources_by_kind = {
        "import": client.list_dataset_import_jobs()["datasetImportJobs"],
        "training": client.list_solution_versions()["solutionVersions"],
        "inference": client.list_batch_inference_jobs()["batchInferenceJobs"],
        "segments": client.list_batch_segment_jobs()["batchSegmentJobs"],
    }
    for name, resources in resources_by_kind.items():
        moments = [
            (resource_summary["creationDateTime"], resource_summary["lastUpdatedDateTime"])
            for resource_summary in resources
        ]
        yield name, [(start.timestamp(), end.timestamp()) for start, end in moments]


def measure_covered(spans: list[Span]) -> float:
    """Return the seconds that at least one span covers."""
    seconds, covered_until = 0.0, -math.inf
    for start, end in sorted(spans):
        seconds += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return seconds


def build_rows(first: Run, second: Run) -> Iterator[dict[str, str]]:
    """Yield a table row for each stage of the two runs, and for the time outside all stages."""
    for name, seconds in first.stages.items():
        yield build_row(name, seconds, second.stages[name])
    for name, seconds in first.jobs.items():
        yield build_row(f"within: Personalize's {name}", seconds, second.jobs.get(name, 0.0))
    yield build_row("start and end", first.seconds_around_stages, second.seconds_around_stages)
    yield build_row("all", first.all, second.all)
    yield build_row("CPU", first.cpu, second.cpu)


def build_row(name: str, first: float, second: float) -> dict[str, str]:
    return {"": name, "first run, s": f"{first:.2f}", "second run, s": f"{second:.2f}"}


def main() -> None:
    """Run all rounds, and print and write the figures of the median round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "end_to_end.json")
    arguments = parser.parse_args()
    rounds = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BATCHREC_HOME"] = folder
            os.environ.pop("BATCHREC_STORAGE", None)
            os.environ.pop("DAGSTER_HOME", None)
            # With this variable, each run would compile the package, unlike a user's runs.
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            rounds.append((run(), run()))
    first, second = sorted(rounds, key=lambda pair: pair[0].all)[len(rounds) // 2]
    print(table("batchrec run movielens", [*build_rows(first, second)]))
    print(f"The second run takes {second.all / first.all:.2f} of the first.")
    write(
        arguments.out,
        {"rounds": [[asdict(measured_run) for measured_run in pair] for pair in rounds]},
    )


if __name__ == "__main__":
    main()
