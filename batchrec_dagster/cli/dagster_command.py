"""Dagster's command, for a run: `python -m batchrec_dagster.cli.dagster_command job execute …`.

It does what `python -m dagster` does, in fewer seconds: importing `batchrec_dagster.cli`, which
Python does before it runs this module, has arranged that garbage is collected seldom.
"""

import runpy
import warnings

if __name__ == "__main__":
    # The successor of `dagster job execute`, `dg launch`, is in a package of its own, which
    # batchrec does not need.
    warnings.filterwarnings("ignore", "Function `job_execute_command` is superseded")
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
