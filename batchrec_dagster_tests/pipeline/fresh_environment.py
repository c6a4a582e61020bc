"""A fresh virtual environment with batchrec's wheel, in which tests run the docs' commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest

from batchrec_dagster_tests.repository.typed_pages import clone_project, type_commands

# These packages, and those they share with this environment, are pinned, so that a new release
# fails no test. dbt-core 1.12 would build a part from sources on GitHub.
PACKAGES = ("create-dagster", "dagster-dg-cli", "dagster-webserver", "s3fs==2026.9.0")
DBT = ("dagster-dbt", "dbt-duckdb==1.11.1", "dbt-core==1.11.16")
# The pinned packages need older versions of these.
UNPINNED = ("batchrec", "boto", "pathspec", "s3transfer", "sqlalchemy")
NO_REGISTRY = re.compile(
    "dns error|client error|server error|sending request|timed out|failed to (fetch|download)",
    re.IGNORECASE,
)
UV = (sys.executable, "-m", "uv")


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with the wheel."""

    bin: Path
    pins: Path

    def install(self, *packages: str) -> None:
        """Install packages by these tests' uv. Skips the test if no package registry answers."""
        command = [*UV, "pip", "install", "-q", "--python", str(self.bin / "python")]
        installation = subprocess.run(
            [*command, "--constraints", str(self.pins), *packages],
            capture_output=True,
            text=True,
            check=False,
        )
        if installation.returncode and NO_REGISTRY.search(installation.stderr):
            pytest.skip(f"no package registry can be reached: {installation.stderr}")
        assert installation.returncode == 0, installation.stderr

    def home(self, folder: Path) -> Path:
        """Return Dagster's home of the project in the folder.

        Dagster's own commands remember materializations only if DAGSTER_HOME is set.
        """
        history = self.bin.parent / "history" / folder.name
        history.mkdir(parents=True, exist_ok=True)
        return history

    def variables(self, folder: Path) -> dict[str, str]:
        """Return the environment variables of a command in the folder."""
        inherited_variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BATCHREC_", "DAGSTER_", "VIRTUAL_ENV", "PYTHONPATH"))
        }
        return {
            **inherited_variables,
            "PATH": f"{self.bin}:{inherited_variables['PATH']}",
            "PWD": str(folder),
            "SHOP_ROOT": str(folder),
            "DAGSTER_HOME": str(self.home(folder)),
            "COLUMNS": "200",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, folder: Path, *command: str, fails: bool = False) -> str:
        """Run a command in the folder and return its output."""
        process = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=folder,
            env=self.variables(folder),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        output = process.stdout + process.stderr
        assert (process.returncode != 0) == fails, output
        return output


def make_environment(
    root: Path, *packages: str, extras: str = "local", python: str = sys.executable
) -> Environment:
    """Return a new virtual environment with the wheel that `make wheel` makes in a clone.

    extras: the extras of the wheel.
    python: the interpreter.
    Skips the test if no package registry answers.
    """
    venv = root / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", str(venv)], check=True)
    pins = root / "pins.txt"
    pins.write_text(
        "".join(
            f"{package.name}=={package.version}\n"
            for package in distributions()
            if not package.name.lower().startswith(UNPINNED)
        )
    )
    environment = Environment(venv / "bin", pins)
    clone = clone_project(root / "clone")
    hint = type_commands(["make wheel"], clone)
    (wheel,) = (clone / "dist").iterdir()
    assert f"pip install '{wheel.relative_to(clone)}[local,serve]'" in hint
    assert not (clone / "build").exists()
    environment.install(f"{wheel}[{extras}]", *PACKAGES, *packages)
    return environment


def remember_the_version(dbt: Path) -> None:
    """Store dbt's version, so that dagster-dbt does not ask dbt for it, which takes seconds."""
    version = subprocess.run([dbt, "--version"], capture_output=True, check=True).stdout
    Path(f"{dbt}.version").write_bytes(version)
    dbt.rename(f"{dbt}.real")
    remembered = f'[ "$*" = --version ] && exec cat "{dbt}.version"'
    dbt.write_text(f'#!/bin/sh\n{remembered}\nexec "{dbt}.real" "$@"\n')
    dbt.chmod(0o755)
