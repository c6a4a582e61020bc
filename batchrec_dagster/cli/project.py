"""The project that a command works on: where it is, its environment, and how it is imported."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.deployment import Deployment
    from batchrec_dagster.storage.connection import Storage


class ProjectError(click.ClickException):
    """There is no project, or its pyproject.toml cannot be read."""


@dataclass(frozen=True)
class Project:
    """A folder whose pyproject.toml has [tool.dg.project], as Dagster looks for it."""

    root: Path
    defs: Path
    location_name: str
    """What Dagster calls its code location."""
    definitions_module: str
    """The module that Dagster loads."""

    @property
    def code(self) -> Path:
        """The folder of its packages: the root, or `src` in it."""
        return self.root / "src" if self.defs.is_relative_to(self.root / "src") else self.root


def find_project() -> Project:
    """The project around the working folder, else that of this package. Raises ProjectError."""
    for start in (Path.cwd(), Path(__file__).parent):
        for folder in (start, *start.parents):
            file = folder / "pyproject.toml"
            if file.is_file() and (project := _read_project(file)) is not None:
                return project
    raise ProjectError(
        "no project here. Work in a clone of batchrec, or in a folder whose pyproject.toml has"
        " [tool.dg.project]"
    )


def load_environment() -> Mapping[str, str]:
    """The environment, with .env of this folder added, as Dagster does."""
    from dotenv import dotenv_values

    values = dotenv_values(Path(".env"))
    os.environ.update({name: value for name, value in values.items() if value is not None})
    return os.environ


def load_storage() -> Storage:
    """The project's storage.

    Raises click.ClickException if a setting of the deployment is wrong.
    """
    return load_deployment().open_storage()


def load_deployment() -> Deployment:
    """The project's deployment.

    Raises click.ClickException if a setting is wrong.
    """
    from batchrec_dagster.pipeline.deployment import Deployment, DeploymentError

    load_environment()
    try:
        with _importable_project_if_any():
            return Deployment.from_environment()
    except DeploymentError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _importable_project_if_any() -> Iterator[None]:
    """Lets a resource of the project be imported, if there is a project."""
    try:
        project = find_project()
    except ProjectError:
        yield
        return
    with importable_project(project):
        yield


def make_job_command(job: str) -> list[str]:
    """Dagster's command that runs a job of the project in a process of its own.

    Its run configuration and tags can be appended as options.
    """
    project = find_project()
    dagster = [sys.executable, "-m", "batchrec_dagster.cli.dagster_command"]
    definitions = ["-m", project.definitions_module, "-d", str(project.code)]
    return [*dagster, "job", "execute", *definitions, "-j", job]


@contextmanager
def importable_project(project: Project) -> Iterator[None]:
    """Lets the project's modules be imported from its folder, as Dagster does there.

    Dagster's notices that a few of its classes are new are left out.
    """
    import warnings

    import dagster as dg

    sys.path.insert(0, str(project.code))
    try:
        with warnings.catch_warnings():
            for notice in (dg.BetaWarning, dg.PreviewWarning):
                warnings.simplefilter("ignore", notice)
            yield
    finally:
        sys.path.remove(str(project.code))


def _read_project(file: Path) -> Project | None:
    """The project that a pyproject.toml declares; None if it declares none.

    Raises ProjectError if the file cannot be read.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"cannot read {file}: {error}") from error
    project = content.get("tool", {}).get("dg", {}).get("project")
    if not isinstance(project, dict) or "root_module" not in project:
        return None
    module = str(project["root_module"])
    code = next(
        (path for path in (file.parent, file.parent / "src") if (path / module).is_dir()),
        file.parent,
    )
    defs = str(project.get("defs_module", f"{module}.defs"))
    return Project(
        root=file.parent,
        defs=code.joinpath(*defs.split(".")),
        location_name=str(project.get("code_location_name", file.parent.name)),
        definitions_module=str(project.get("code_location_target_module", f"{module}.definitions")),
    )
