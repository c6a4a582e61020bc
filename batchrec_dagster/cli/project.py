"""The project that a command works on: its folder, its environment, and its imports."""

from __future__ import annotations

import logging
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.deployment import Deployment
    from batchrec_dagster.storage.connection import Storage


class ProjectError(click.ClickException):
    """An error for a missing project, or for a pyproject.toml that cannot be read."""


@dataclass(frozen=True)
class Project:
    """A Dagster project: a folder with [tool.dg.project] in its pyproject.toml."""

    root: Path
    defs: Path
    location_name: str
    """The name of the project's code location in Dagster."""
    definitions_module: str
    """The module that Dagster loads."""

    @property
    def code(self) -> Path:
        """The folder of the project's packages: the root, or `src` in the root."""
        return self.root / "src" if self.defs.is_relative_to(self.root / "src") else self.root


def find_project() -> Project:
    """Return the project around the working folder.

    Raises ProjectError if there is no project.
    """
    folder = Path.cwd()
    for around in (folder, *folder.parents):
        file = around / "pyproject.toml"
        if file.is_file() and (project := _read_project(file)) is not None:
            return project
    raise ProjectError(
        f"there is no project in {folder} or around it: no pyproject.toml has [tool.dg.project]."
        " Go to your project, or make one: `batchrec init DIR`"
    )


def enter_project() -> Project:
    """Go to the root of the project around the working folder, and load its .env, as Dagster does.

    A command then works the same in any folder of the project, and the project's modules can be
    imported.

    Raises ProjectError if there is no project.
    """
    project = find_project()
    if Path.cwd() != project.root:
        # The output shows paths and commands as you would type them in the root.
        click.echo(f"In {project.root}:", err=True)
        os.chdir(project.root)
    if str(project.code) not in sys.path:
        sys.path.insert(0, str(project.code))
    _take_environment()
    return project


def enter_project_if_any() -> Project | None:
    """Enter the project as `enter_project` does; return None if there is no project.

    Published lists can be read without a project.
    """
    try:
        return enter_project()
    except ProjectError:
        _take_environment()
        return None


def _take_environment() -> None:
    """Add the variables in .env of the working folder to the environment."""
    from dotenv import dotenv_values

    values = dotenv_values(Path(".env"))
    os.environ.update({name: value for name, value in values.items() if value is not None})


def open_console_log() -> logging.Logger:
    """Return a log that prints each message as a line on stderr.

    The log is for work that a command does itself, outside a run.
    """
    logging.basicConfig(format="%(message)s")
    log = logging.getLogger("batchrec_dagster.cli")
    log.setLevel(logging.INFO)
    return log


def load_storage() -> Storage:
    """Return the project's storage.

    Raises click.ClickException if a setting of the deployment is wrong.
    """
    return load_deployment().open_storage()


def load_deployment() -> Deployment:
    """Return the project's deployment.

    Raises click.ClickException if a setting is wrong.
    """
    from batchrec_dagster.pipeline.deployment import Deployment, DeploymentError

    try:
        return Deployment.from_environment()
    except DeploymentError as error:
        raise click.ClickException(str(error)) from error


def _read_project(file: Path) -> Project | None:
    """Return the project that a pyproject.toml declares; None if it declares none.

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
