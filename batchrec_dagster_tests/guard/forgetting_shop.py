"""A shop for tests of `batchrec forget`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project, declaration, refresh
from batchrec_dagster_tests.guard.oracles.marks import read_files

NOBODY_IS_FOUND = "Not found anywhere."


@dataclass(frozen=True)
class Shop:
    """A project with a Dagster home, where tests run commands."""

    project: Project
    monkeypatch: pytest.MonkeyPatch

    @property
    def home(self) -> Path:
        return self.project.root / ".batchrec" / "dagster"

    @property
    def files(self) -> Iterator[tuple[str, bytes]]:
        """The names and contents of all files that batchrec and Dagster keep."""
        return read_files(self.project.root / ".batchrec")

    def enter(self) -> None:
        """Set the working directory and variables so that commands find the shop."""
        self.monkeypatch.chdir(self.project.root)
        self.home.mkdir(parents=True, exist_ok=True)
        variables = {
            "BATCHREC_HOME": str(self.project.root / ".batchrec"),
            "BATCHREC_POLL_SECONDS": "0.02",
            "DAGSTER_HOME": str(self.home),
            **self.project.environment,
        }
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def declare(self, **attributes: Any) -> None:
        blocks = declaration("shop", "ratings.csv", **attributes)
        blocks["ratings"]["on_bad_rows"] = "skip"
        self.project.declare(blocks)

    def run(self, *, report: bool = False) -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.local_temp(str(self.home)) as instance:
            return refresh(self.project, "shop", instance, report=report)

    def forget(self, *arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(main, ["forget", *arguments], input=answer)

    def is_found(self, *users: str) -> bool:
        """Return whether `batchrec forget` finds at least one user."""
        shown = self.forget(*users, "--dry-run")
        assert shown.exit_code == 0, shown.output
        return NOBODY_IS_FOUND not in shown.output
