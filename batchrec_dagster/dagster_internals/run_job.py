"""Runs a job in this process, as `dagster job execute` does.

Without the rest of Dagster's command, and without the job's resources, which that sets up once more
after the run: it took 0.3 s more.
"""

import argparse
import json
import sys
from pathlib import Path

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module
from dagster._utils.interrupts import capture_interrupts
from dagster_shared.yaml_utils import load_run_config_yaml


def main() -> None:
    """Run the job that the arguments name, and exit with 1 unless it succeeds."""
    parser = argparse.ArgumentParser(prog="run_job")
    parser.add_argument("module", help="has the definitions")
    parser.add_argument("folder", help="to import it from")
    parser.add_argument("job")
    parser.add_argument("--tags", type=json.loads, default={}, help="of the run, as JSON")
    parser.add_argument("-c", "--config", type=Path, help="a file with the run's configuration")
    asked = parser.parse_args()
    config = load_run_config_yaml(asked.config.read_text("utf-8")) if asked.config else None
    with capture_interrupts(), dg.DagsterInstance.get() as instance:
        target, *_ = loadable_targets_from_python_module(asked.module, asked.folder)
        found = ReconstructableRepository.for_module(asked.module, target.attribute, asked.folder)
        job = found.get_reconstructable_job(asked.job)
        result = dg.execute_job(job, instance, config, asked.tags, raise_on_error=False)
    sys.exit(0 if result.success else 1)
