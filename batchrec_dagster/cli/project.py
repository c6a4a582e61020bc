"""What a command works on: the project, found without loading its pipelines, and the deployment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

if TYPE_CHECKING:
    import dagster as dg
    from click.shell_completion import CompletionItem

    from batchrec_dagster.storage.resource import StorageResource

# The end of the component's type: config has all of it, but to import it slows down completion.
COMPONENT = ".BatchRecommendations"


class ProjectError(click.ClickException):
    """There is no project, or its pyproject.toml cannot be read."""


class NotFoundError(click.ClickException):
    """There is no such pipeline, user or item."""

    exit_code = 3


@dataclass(frozen=True)
class Project:
    """A folder whose pyproject.toml has [tool.dg.project], as Dagster looks for it."""

    root: Path
    module: str
    defs: Path


def find_project() -> Project:
    """The project around the working folder, else that of this package. Raises ProjectError."""
    for start in (Path.cwd(), Path(__file__).parent):
        for folder in (start, *start.parents):
            file = folder / "pyproject.toml"
            if file.is_file() and (project := _read(file)) is not None:
                return project
    raise ProjectError(
        "no project here. Work in a clone of batchrec, or in a folder whose pyproject.toml has"
        " [tool.dg.project]"
    )


def declared_pipelines(project: Project) -> dict[str, Path]:
    """The names of the declared pipelines, and the file of each; skips unreadable files."""
    found: dict[str, Path] = {}
    for file in sorted(project.defs.rglob("defs.yaml")):
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        for document in documents:
            if isinstance(document, dict) and str(document.get("type")).endswith(COMPONENT):
                attributes = document.get("attributes")
                if isinstance(attributes, dict) and isinstance(attributes.get("name"), str):
                    found[attributes["name"]] = file
    return found


def environment() -> Mapping[str, str]:
    """The environment, with .env of this folder added, as Dagster does."""
    from dotenv import dotenv_values

    values = dotenv_values(Path(".env"))
    os.environ.update({name: value for name, value in values.items() if value is not None})
    return os.environ


def storage() -> StorageResource:
    """The deployment's storage. Raises click.ClickException."""
    from batchrec_dagster.deployment import Deployment, DeploymentError

    try:
        resources = Deployment.from_environment(environment()).resources()
    except DeploymentError as error:
        raise click.ClickException(str(error)) from error
    found: StorageResource = resources["storage"]
    return found


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance | None]:
    """Dagster's instance with the runs; None without DAGSTER_HOME. Raises click.ClickException."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        yield None
        return
    import dagster as dg

    from batchrec_dagster.storage.file_lock import exclusive

    try:
        # Of several processes that make the databases of a new home, Dagster lets all but one fail.
        with exclusive(Path(home)) if Path(home).is_dir() else nullcontext():
            found = dg.DagsterInstance.get()
    except dg.DagsterInvariantViolationError as error:
        raise click.ClickException(str(error)) from error
    with found as instance:
        yield instance


def complete_pipelines(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The declared pipelines with this prefix, for `shell_complete` of an option."""
    try:
        found = declared_pipelines(find_project())
    except ProjectError:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


def complete_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a path, for `shell_complete` of an option."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _read(file: Path) -> Project | None:
    """The file's project; None if it declares none."""
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
    return Project(file.parent, module, code.joinpath(*defs.split(".")))
