"""Dagster's command for a run: `python -m batchrec_dagster.cli.dagster_command job execute …`.

This module does the same as `python -m dagster` in less time. Python imports `batchrec_dagster.cli`
before it runs this module, and that import makes garbage collections rare.
"""

import runpy
import warnings

if __name__ == "__main__":
    # `dg launch` supersedes `dagster job execute`, but is in a package that batchrec does not need.
    warnings.filterwarnings("ignore", "Function `job_execute_command` is superseded")
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
