"""Time of the demo's command in a new home, and again on unchanged data, by stage.

    python benchmarks/end_to_end.py [--rounds 3] [--out end_to_end.json]

A round runs `batchrec run movielens` twice, as `make demo` does. The stages are Dagster's steps;
within them, Personalize's jobs from creation to last update; those that overlap count once.
"Start and end" is what the command takes besides its steps: to start two processes, to import and
load, to say what came out. CPU is that of all processes. The output is the round with the median
total, and how the second run compares with the first.
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
from batchrec_dagster.deployment import Deployment

COMMAND = (str(Path(sys.executable).parent / "batchrec"), "run", "movielens")
Span = tuple[float, float]  # epoch seconds


@dataclass(frozen=True)
class Run:
    """Seconds of one run of the command: all, of CPU, of each stage, and of Personalize's jobs."""

    all: float
    cpu: float
    stages: dict[str, float]
    jobs: dict[str, float]

    @property
    def around(self) -> float:
        return self.all - sum(self.stages.values())


def run() -> Run:
    """Run the command in the home that BATCHREC_HOME names."""
    began, cpu = time.time(), cpu_of_children()
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)
    took, cpu = time.time() - began, cpu_of_children() - cpu
    with open_dagster_instance() as instance:
        (newest,) = instance.get_runs(limit=1)
        ends = instance.all_logs(newest.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    stages = {}
    for end in ends:
        event = end.get_dagster_event()
        asset = (event.step_key or "").rpartition("__")[2]
        stages[asset] = event.step_success_data.duration_ms / 1000
    client = Deployment.from_environment(os.environ).personalize_resource.client
    found = {
        name: covered([span for span in spans if span[0] > began]) for name, spans in jobs(client)
    }
    return Run(took, cpu, stages, {name: seconds for name, seconds in found.items() if seconds})


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        yield name, [(begun.timestamp(), done.timestamp()) for begun, done in moments]


def covered(spans: list[Span]) -> float:
    """Seconds in which at least one of them was at work."""
    seconds, reached = 0.0, -math.inf
    for begun, done in sorted(spans):
        seconds += max(0.0, done - max(begun, reached))
        reached = max(reached, done)
    return seconds


def rows(first: Run, again: Run) -> Iterator[dict[str, str]]:
    """The stages of both runs, and what is not in a stage."""
    for name, seconds in first.stages.items():
        yield row(name, seconds, again.stages[name])
    for name, seconds in first.jobs.items():
        yield row(f"within: Personalize's {name}", seconds, again.jobs.get(name, 0.0))
    yield row("start and end", first.around, again.around)
    yield row("all", first.all, again.all)
    yield row("CPU", first.cpu, again.cpu)


def row(name: str, first: float, again: float) -> dict[str, str]:
    return {"": name, "first run, s": f"{first:.2f}", "second run, s": f"{again:.2f}"}


def main() -> None:
    """Run, take the median, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "end_to_end.json")
    asked = parser.parse_args()
    rounds = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BATCHREC_HOME"] = folder
            os.environ.pop("BATCHREC_STORAGE", None)
            os.environ.pop("DAGSTER_HOME", None)
            # With it, both processes would compile the package in each run, as no user's do.
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            rounds.append((run(), run()))
    first, again = sorted(rounds, key=lambda both: both[0].all)[len(rounds) // 2]
    print(table("batchrec run movielens", [*rows(first, again)]))
    print(f"The second run takes {again.all / first.all:.2f} of the first.")
    write(asked.out, {"rounds": [[asdict(one) for one in both] for both in rounds]})


if __name__ == "__main__":
    main()
