"""CPU time of loading pipelines, compared with the same number of assets and jobs in plain Dagster.

    python benchmarks/loading.py [--pipelines 1 --pipelines 50 --pipelines 200] [--out loading.json]

A measurement is the user and system time of a separate process, from the start of Python. The
process imports, builds the definitions and resolves every job, as `dagster definitions validate`
does. For each pipeline, the plain project declares the same number of assets in a chain, two jobs
that select the assets, a job with a single op, and a schedule.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from report import RESULTS, table, write

ASSETS = 9  # assets of a pipeline without items, segments and sinks
START = "import dagster as dg; from pathlib import Path; import os"
OURS = f"""{START}
from batchrec_dagster.definitions import load
load(Path({{folder!r}})).get_repository_def().load_all_definitions()
"""
BARE = f"""{START}
def shop(name):
    chain = []
    for number in range({ASSETS}):
        @dg.asset(key=[name, str(number)], deps=chain[-1:], group_name=name)
        def one(): ...
        chain.append(one)
    @dg.op(name=name + "_op")
    def alone(): ...
    @dg.job(name=name + "_teardown")
    def teardown(): alone()
    jobs = [
        dg.define_asset_job(name + "_refresh", dg.AssetSelection.assets(*chain)),
        dg.define_asset_job(name + "_rollback", dg.AssetSelection.assets(*chain[5:])),
    ]
    schedule = dg.ScheduleDefinition(name=name, job=jobs[0], cron_schedule="0 3 * * *")
    return dg.Definitions(assets=chain, jobs=[*jobs, teardown], schedules=[schedule])
shops = [shop("shop%d" % number) for number in range({{pipelines}})]
dg.Definitions.merge(*shops).get_repository_def().load_all_definitions()
"""
# The further imports of a step's process, for training and inference.
STEP = f"""{OURS}
import batchrec_dagster.local_personalize.api.service, batchrec_dagster.steps.lists.make
"""


def create_project(root: Path, pipelines: int) -> Path:
    """Create a package with this many pipelines, and return its folder."""
    package = root / "shops"
    for number in range(pipelines):
        folder = package / "defs" / f"shop{number:03}"
        folder.mkdir(parents=True)
        attributes = {
            "name": folder.name,
            "ratings": {"source": f"/data/{folder.name}.csv"},
            "schedule": {"cron": "0 3 * * *"},
        }
        component = {"type": "batchrec_dagster.BatchRecommendations", "attributes": attributes}
        (folder / "defs.yaml").write_text(yaml.safe_dump(component))
    (package / "__init__.py").touch()
    settings = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shops"\n'
    (root / "pyproject.toml").write_text(settings)
    return package


def measure_cpu_seconds(code: str, folder: Path) -> float:
    """Return the user and system time of a Python process with the code, the lower of two runs."""
    cpu_times = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(cpu_times)


def measure(pipelines: int) -> dict[str, float]:
    """Return the CPU seconds of each kind of project."""
    with tempfile.TemporaryDirectory() as root:
        folder = str(create_project(Path(root), pipelines))
        return {
            "batchrec": measure_cpu_seconds(OURS.format(folder=folder), Path(root)),
            "a step's process": measure_cpu_seconds(STEP.format(folder=folder), Path(root)),
            "bare Dagster": measure_cpu_seconds(BARE.format(pipelines=pipelines), Path(root)),
        }


def main() -> None:
    """Measure all numbers of pipelines, and print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pipelines", type=int, action="append")
    parser.add_argument("--out", type=Path, default=RESULTS / "loading.json")
    arguments = parser.parse_args()
    seconds_by_count = {
        pipelines: measure(pipelines) for pipelines in arguments.pipelines or [1, 50, 200]
    }
    rows = [
        {
            "pipelines": str(pipelines),
            **{f"{name}, CPU s": f"{seconds:.1f}" for name, seconds in cpu_seconds.items()},
            "over bare Dagster": f"{cpu_seconds['batchrec'] / cpu_seconds['bare Dagster']:.2f}",
        }
        for pipelines, cpu_seconds in seconds_by_count.items()
    ]
    print(table("Loading", rows))
    write(arguments.out, {"cpu_seconds": seconds_by_count})


if __name__ == "__main__":
    main()
