"""A pipeline whose YAML is broken keeps the project from loading, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster_tests.guard.builders import (
    copied_project,
    declaration,
    write_ratings,
)

# The files that are broken together, and only together.


@pytest.mark.slow
def test_every_command_says_which_file_is_broken(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    module = ("-m", "batchrec_dagster.definitions")
    job = ("dagster", "job", "execute", *module, "-j", "shop_refresh")
    run_process = project.run(*job)
    assert run_process.returncode == 0, run_process.stderr[-3000:]
    file = project.declare(declaration("later", "ftp://x/y"))
    file.write_text(f"{file.read_text()}  batch_users: {{active_since: 2026-02-30}}\n")
    # Not the script: it would import the package that this copies.
    batchrec = ("python", "-c", "from batchrec_dagster.cli import main; main()")
    for command in (
        ("dagster", "definitions", "validate", *module),
        job,
        (*batchrec, "check"),
    ):
        check_process = project.run(*command)
        assert check_process.returncode == 1
        assert (
            f"{file}, line 5: ratings.source: ftp://" in check_process.stdout + check_process.stderr
        )
    for subcommand in ("show", "list"):
        process = project.run(*batchrec, subcommand)
        assert process.returncode == 0
        assert "shop" in process.stdout
        assert (
            f"nothing is refreshed until it is fixed:\n  {file}, line 5: ratings.source: "
            in process.stderr
        )
