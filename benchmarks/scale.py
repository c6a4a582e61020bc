"""Time and memory from a file of interactions to a list for every user, at growing sizes.

    python benchmarks/scale.py [1 5 20 100] [--work FOLDER] [--out scale.json] [--plot FOLDER]
    python benchmarks/scale.py 1 3 10 30 100 --plot docs/images
    python benchmarks/scale.py 5 --users 20000 --items 1200000 --with-items

The sizes are millions of generated interactions. All steps go through the local Personalize, as in
a pipeline: an import job, a training of aws-user-personalization-v2, and a batch inference job with
25 items for every user. Each step runs in a separate process. Peak memory comes from the operating
system. Size 100 takes half an hour or more, and 10 GB of disk.

`--plot` writes the figures into a folder's scale.csv, in place of rows with the same number of
interactions. It then draws all rows of scale.csv in scale.svg. `--users` and `--items` replace the
numbers of a size, to measure catalogues that have many items for each user. Some of these items
have no interactions. `--with-items` imports an Items dataset too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import scale_plot
from generated import SIZES, Size, write_csv, write_items_csv
from report import RESULTS, table, write

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.personalize.schemas import make_interactions_schema, make_items_schema
from batchrec_dagster.storage.objects import ObjectStore

ITEMS_FILE = "items.csv"
ROLE = "arn:aws:iam::000000000000:role/personalize"
RESULTS_EACH = 25


@dataclass(frozen=True)
class StepMeasurement:
    """The figures of a step at a size."""

    step: str
    rows: int
    users: int
    seconds: float
    cpu_seconds: float  # CPU seconds of all cores, including the system's work
    system_seconds: float
    peak_gb: float


class Local:
    """A local Personalize in a folder, with a storage folder next to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "storage").mkdir(parents=True, exist_ok=True)
        self._client: Any = embedded_client(
            root / "home", ObjectStore(folders={"data": root / "storage"})
        )
        self._facts = root / "facts.json"
        self.facts: dict[str, str] = (
            json.loads(self._facts.read_text()) if self._facts.exists() else {}
        )

    def create_ready(self, kind: str, operation: str, **params: Any) -> str:
        """Create a resource, wait until it is ACTIVE, and store and return its ARN."""
        answer = getattr(self._client, f"create_{operation}")(**params)
        arn = next(value for key, value in answer.items() if key.endswith("Arn"))
        while True:
            description = getattr(self._client, f"describe_{operation}")(**{f"{kind}Arn": arn})[
                kind
            ]
            if description["status"] == "ACTIVE":
                break
            if description["status"] == "CREATE FAILED":
                raise SystemExit(f"{arn}: {description['failureReason']}")
            time.sleep(0.1)
        self.facts[kind] = arn
        self._facts.write_text(json.dumps(self.facts))
        return str(arn)

    def import_(self, kind: str, schema: str, file: str) -> None:
        """Import a file into a new dataset of this kind."""
        schema_answer = self._client.create_schema(name=kind, schema=schema)
        dataset = self.create_ready(
            "dataset",
            "dataset",
            name=kind,
            schemaArn=schema_answer["schemaArn"],
            datasetGroupArn=self.facts["datasetGroup"],
            datasetType=kind,
        )
        self.create_ready(
            "datasetImportJob",
            "dataset_import_job",
            jobName=kind,
            datasetArn=dataset,
            dataSource={"dataLocation": f"s3://data/{file}"},
            roleArn=ROLE,
        )

    def train(self, recipe: str) -> float:
        """Train a solution version, and return the NDCG at 25 of its held-out users."""
        solution = self.create_ready(
            "solution",
            "solution",
            name=recipe,
            datasetGroupArn=self.facts["datasetGroup"],
            recipeArn=f"arn:aws:personalize:::recipe/{recipe}",
            performAutoTraining=False,
        )
        version = self.create_ready("solutionVersion", "solution_version", solutionArn=solution)
        answer = self._client.get_solution_metrics(solutionVersionArn=version)
        return float(answer["metrics"]["normalized_discounted_cumulative_gain_at_25"])


def import_(local: Local) -> None:
    """Run the import jobs."""
    local.create_ready("datasetGroup", "dataset_group", name="scale")
    if (local.root / "storage" / ITEMS_FILE).exists():
        columns = make_items_schema(created=False, categories=["CLUSTER", "SHELF"], numbers=[]).avro
        local.import_("Items", columns, ITEMS_FILE)
    local.import_(
        "Interactions", make_interactions_schema(event_type=False).avro, "interactions.csv"
    )


def train(local: Local) -> None:
    """Train the solution version."""
    print(f"NDCG at 25: {local.train('aws-user-personalization-v2'):.4f}", flush=True)


def infer(local: Local) -> None:
    """Run the batch inference job for all users."""
    local.create_ready(
        "batchInferenceJob",
        "batch_inference_job",
        jobName="scale",
        solutionVersionArn=local.facts["solutionVersion"],
        roleArn=ROLE,
        numResults=RESULTS_EACH,
        jobInput={"s3DataSource": {"path": "s3://data/users.json"}},
        jobOutput={"s3DataDestination": {"path": "s3://data/out/"}},
    )


STEPS: dict[str, Callable[[Local], None]] = {"import": import_, "train": train, "infer": infer}


def write_files(storage: Path, size: Size, *, has_items: bool) -> int:
    """Write the files to import and the list of users, and return the number of interactions."""
    rows = write_csv(storage / "interactions.csv", size)
    if has_items:
        write_items_csv(storage / ITEMS_FILE, size)
    users = pl.int_range(1, size.users + 1, eager=True).cast(pl.String)
    pl.DataFrame({"userId": users}).write_ndjson(storage / "users.json")
    return rows


def measure(size: Size, work: Path, *, has_items: bool) -> list[StepMeasurement]:
    """Run all steps at a size, each in a separate process, and return their figures."""
    shutil.rmtree(work, ignore_errors=True)
    storage = work / "storage"
    storage.mkdir(parents=True)
    # Another process writes the files, because a child's peak memory is at least the memory of its
    # parent at the start.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as generator:
        rows = generator.submit(write_files, storage, size, has_items=has_items).result()
    out = []
    for step in STEPS:
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, __file__, "--step", step, "--work", work])
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(f"{step} at {rows:,} interactions has failed")
        cpu = usage.ru_utime + usage.ru_stime
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        measurement = StepMeasurement(step, rows, size.users, seconds, cpu, usage.ru_stime, peak)
        print(f"{rows:,}, {step}: {seconds:.1f} s, {peak:.2f} GB", measurement, flush=True)
        out.append(measurement)
    lists = sum(1 for _ in (storage / "out" / "users.json.out").open("rb"))
    if lists != size.users:
        raise SystemExit(f"{lists} lists for {size.users} users")
    return out


def build_rows(measurements: dict[int, list[StepMeasurement]]) -> list[dict[str, str]]:
    """Return a table row for each size and step, with the growth since the size before."""
    lines: list[dict[str, str]] = []
    before: dict[str, StepMeasurement] = {}
    for millions, steps in measurements.items():
        whole = StepMeasurement(
            "all",
            steps[0].rows,
            steps[0].users,
            sum(step.seconds for step in steps),
            sum(step.cpu_seconds for step in steps),
            sum(step.system_seconds for step in steps),
            max(step.peak_gb for step in steps),
        )
        for step in [*steps, whole]:
            was = before.get(step.step)
            lines.append(
                {
                    "step": f"{millions} M: {step.step}",
                    "interactions": f"{step.rows:,}",
                    "users": f"{step.users:,}",
                    "seconds": f"{step.seconds:.1f}",
                    "cpu s": f"{step.cpu_seconds:.1f}",
                    "peak GB": f"{step.peak_gb:.2f}",
                    "rows, times": f"{step.rows / was.rows:.1f}" if was else "",
                    "time, times": f"{step.seconds / was.seconds:.1f}" if was else "",
                    "memory, times": f"{step.peak_gb / was.peak_gb:.1f}" if was else "",
                }
            )
            before[step.step] = step
    return lines


def plot(folder: Path, measurements: dict[int, list[StepMeasurement]]) -> None:
    """Add the figures to the folder's scale.csv, and draw scale.svg again."""
    new = [
        {
            "interactions": str(measurement.rows),
            "users": str(measurement.users),
            "step": measurement.step,
            "seconds": f"{measurement.seconds:.1f}",
            "cpu_seconds": f"{measurement.cpu_seconds:.1f}",
            "peak_gb": f"{measurement.peak_gb:.2f}",
        }
        for steps in measurements.values()
        for measurement in steps
    ]
    sizes_measured = {row["interactions"] for row in new}
    path = folder / "scale.csv"
    rows_of_other_sizes = [
        row for row in scale_plot.read(path) if row["interactions"] not in sizes_measured
    ]
    scale_plot.write(path, [*rows_of_other_sizes, *new])
    path.with_suffix(".svg").write_text(scale_plot.draw_svg(scale_plot.read(path)))


def main() -> None:
    """Measure every given size or, with --step, run a single step in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("millions", nargs="*", type=int, help=f"of {', '.join(map(str, SIZES))}")
    parser.add_argument("--users", type=int, help="as many as this, in place of the size's")
    parser.add_argument("--items", type=int, help="as many as this, in place of the size's")
    parser.add_argument("--with-items", action="store_true", help="an Items dataset too")
    parser.add_argument("--work", type=Path, help="folder to work in, emptied; default: temporary")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    parser.add_argument("--plot", type=Path, help="folder of scale.csv and scale.svg")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        logging.basicConfig(format="%(relativeCreated)9d ms  %(message)s", level=logging.WARNING)
        logging.getLogger("batchrec_dagster").setLevel(logging.INFO)
        STEPS[arguments.step](Local(arguments.work))
        return
    sizes = arguments.millions or [1, 5, 20]
    if unknown := set(sizes) - set(SIZES):
        parser.error(f"no size of {unknown}: there are {', '.join(map(str, SIZES))}")
    measurements = {}
    for millions in sizes:
        size = SIZES[millions]
        size = Size(size.rows, arguments.users or size.users, arguments.items or size.items)
        with tempfile.TemporaryDirectory() as folder:
            work = arguments.work or Path(folder)
            measurements[millions] = measure(size, work, has_items=arguments.with_items)
    print(table("\nFrom interactions to everybody's list", build_rows(measurements)))
    if arguments.plot:
        plot(arguments.plot, measurements)
    results = {
        str(millions): [asdict(step) for step in steps] for millions, steps in measurements.items()
    }
    write(arguments.out, {"results_each": RESULTS_EACH, "millions": results})


if __name__ == "__main__":
    main()
