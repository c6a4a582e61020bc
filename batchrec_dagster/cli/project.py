"""What a command works on: the project, found without loading its pipelines, and the deployment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.deployment import Deployment
    from batchrec_dagster.storage.resource import StorageResource

# The end of the component's type: config has all of it, but to import it slows down completion.
COMPONENT = ".BatchRecommendations"
# Of gc.set_threshold(): to look through all that Dagster imports takes up to half a second.
FEW_COLLECTIONS = 200_000
NONE = "No pipeline is declared. Declare one: batchrec new NAME --ratings FILE"


class ProjectError(click.ClickException):
    """There is no project, or its pyproject.toml cannot be read."""


class UnknownNameError(click.ClickException):
    """There is no such pipeline, user or item."""

    exit_code = 3


def not_declared(pipeline: str, declared: Iterable[str]) -> UnknownNameError:
    """The error for a pipeline that is not among the declared ones."""
    known = ", ".join(sorted(declared))
    there = f"Declared: {known}. `batchrec check` names files that do not load."
    return UnknownNameError(f"no pipeline {pipeline!r}. {there if known else NONE}")


class HistoryError(click.ClickException):
    """Dagster's databases cannot be opened, as where they are read-only."""


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
    return {
        attributes["name"]: file
        for kind, attributes, file in _components(project)
        if kind.endswith(COMPONENT) and isinstance(attributes.get("name"), str)
    }


class TextDates(yaml.SafeLoader):
    """Leaves dates as text, as Dagster does: 2026-02-30 would stop the reading of all files."""


TextDates.yaml_implicit_resolvers = {
    first: [known for known in resolvers if known[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _components(project: Project) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """The type, the attributes and the file of each readable component."""
    for file in sorted(project.defs.rglob("defs.yaml")):
        try:
            documents = list(yaml.load_all(file.read_text(encoding="utf-8"), TextDates))
        except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
            continue
        for document in documents:
            if isinstance(document, dict):
                attributes = document.get("attributes") or {}
                if isinstance(attributes, dict):
                    yield str(document.get("type")), attributes, file


def environment() -> Mapping[str, str]:
    """The environment, with .env of this folder added, as Dagster does."""
    from dotenv import dotenv_values

    values = dotenv_values(Path(".env"))
    os.environ.update({name: value for name, value in values.items() if value is not None})
    return os.environ


def dagster_home() -> Path:
    """DAGSTER_HOME; where it is not set, the folder `dagster` of BATCHREC_HOME."""
    values = environment()
    home = Path(values.get("BATCHREC_HOME", "").strip() or ".batchrec").expanduser().absolute()
    return Path(values.get("DAGSTER_HOME") or home / "dagster")


def use_dagster_home() -> Path:
    """Let Dagster keep its history in `dagster_home`; a new one gets the project's dagster.yaml,
    and the storage that syncs less."""
    from batchrec_dagster.storage.durable import exclusive_lock, make_folders, write

    home = dagster_home()
    if not os.environ.get("DAGSTER_HOME"):
        settings = find_project().root / "dagster.yaml"
        try:
            make_folders(home, 0o700)
            with exclusive_lock(home):
                if settings.is_file() and not (home / settings.name).exists():
                    text = settings.read_bytes()
                    more = b"" if _has_storage(text) else STORAGE.encode()
                    write(home / settings.name, [text + more])
                    (home / settings.name).chmod(0o600)
        except OSError as error:
            raise click.ClickException(f"cannot write {home}: {error.strerror}") from error
        os.environ["DAGSTER_HOME"] = str(home)
    return home


def has_history() -> bool:
    """Whether a run may open Dagster's home while this process does: the home has its SQLite
    databases, or a storage that several processes may make. Waits while another makes them."""
    from batchrec_dagster.storage.durable import exclusive_lock

    home = use_dagster_home()
    if not home.is_dir():
        return False
    with exclusive_lock(home):
        settings = home / "dagster.yaml"
        ours = settings.is_file() and settings.read_bytes().endswith(STORAGE.encode())
        return ours or (home / "schedules" / "schedules.db").is_file()


# Not in the project's dagster.yaml: `dagster dev` reads that without a DAGSTER_HOME.
STORAGE = """
# Dagster's own SQLite storage opens, syncs and closes its databases for each event.
storage:
  custom:
    module: batchrec_dagster.dagster_internals.sqlite_storage
    class: SqliteStorage
    config: {base_dir: {env: DAGSTER_HOME}}
"""
_STORAGES = {"storage", "run_storage", "event_log_storage", "schedule_storage"}


def _has_storage(settings: bytes) -> bool:
    try:
        declared = yaml.safe_load(settings)
    except yaml.YAMLError:
        return True  # Dagster's own error names what is wrong.
    return not isinstance(declared, dict | None) or bool(_STORAGES & {*(declared or {})})


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance with the runs, in `dagster_home`. Raises DagsterInvariantViolationError,
    HistoryError, click.ClickException."""
    import dagster as dg
    from sqlalchemy.exc import ArgumentError, OperationalError

    from batchrec_dagster.storage.durable import copy_permissions, exclusive_lock

    home = use_dagster_home()
    with ExitStack() as making:
        if home.is_dir():
            # Of several processes that make its databases, Dagster lets all but one fail.
            making.enter_context(exclusive_lock(home))
            making.enter_context(copy_permissions(home))
        try:
            found = dg.DagsterInstance.get()
        except OperationalError as error:
            why = str(error.orig).strip()
            raise HistoryError(f"cannot open Dagster's history of {home}: {why}") from error
        except (ValueError, ArgumentError):
            # SQLAlchemy's message repeats a part of a URL that it cannot read.
            raise HistoryError(
                f"cannot open Dagster's history of {home}: its dagster.yaml names a URL or a port"
                " of a database that cannot be read; write % codes in passwords, such as %40 for @"
            ) from None
    with found as instance:
        yield instance


@contextmanager
def instance_if_any() -> Iterator[dg.DagsterInstance | None]:
    """As `dagster_instance`; None where Dagster has no home yet."""
    if not os.environ.get("DAGSTER_HOME") and not dagster_home().is_dir():
        yield None
        return
    with dagster_instance() as found:
        yield found


def job_command(job: str) -> list[str]:
    """The command that runs a job of the project in a process of its own, without its config."""
    project = find_project()
    # It looks for garbage rarely, and at its end not at all: what it imports stays.
    code = (
        f"import atexit, gc; gc.set_threshold({FEW_COLLECTIONS}); atexit.register(gc.freeze);"
        " from batchrec_dagster.dagster_internals.run_job import main; main()"
    )
    return [sys.executable, "-c", code, f"{project.module}.definitions", str(project.root), job]


@contextmanager
def importable(project: Project) -> Iterator[None]:
    """Import the project's modules from its folder, as Dagster does there, without its notices
    that a few of its classes are new."""
    import warnings

    import dagster as dg

    sys.path.insert(0, str(project.root))
    try:
        with warnings.catch_warnings():
            for notice in (dg.BetaWarning, dg.PreviewWarning):
                warnings.simplefilter("ignore", notice)
            yield
    finally:
        sys.path.remove(str(project.root))


def program(folder: Path | None = None) -> str:
    """How to call batchrec of this environment from the folder, by default the working one."""
    path = Path(sys.executable).parent / "batchrec"
    on_path = shutil.which(path.name) == str(path)
    return path.name if on_path else shlex.quote(str(near(path, folder)))


def near(path: Path, folder: Path | None = None) -> Path:
    """The path relative to the folder, by default the working one, if it is below it."""
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def terminal_width() -> int | None:
    """Columns of the terminal; None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def storage(pipeline: str | None = None) -> StorageResource:
    """The storage of the project, or of a pipeline with a deployment of its own. Raises
    click.ClickException."""
    return deployment(pipeline).storage_resource


def deployment(pipeline: str | None = None) -> Deployment:
    """The project's deployment, or a pipeline's own. Raises click.ClickException."""
    from batchrec_dagster.config.project import DeploymentSettings
    from batchrec_dagster.config.templates import fill_in
    from batchrec_dagster.deployment import Deployment, DeploymentError

    variables = dict(environment())
    try:
        for declared in _declared_deployments(pipeline):
            filled = {name: fill_in(str(value), variables) for name, value in declared.items()}
            variables |= DeploymentSettings.model_validate(filled).variables
        return Deployment.from_environment(variables)
    except (DeploymentError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _declared_deployments(pipeline: str | None) -> list[dict[str, Any]]:
    """The settings of BatchrecResources, then those of the pipeline."""
    try:
        components = [*_components(find_project())]
    except ProjectError:
        return []
    shared = [found for kind, found, _ in components if kind.endswith(".BatchrecResources")]
    pipelines = [found for kind, found, _ in components if kind.endswith(COMPONENT)]
    own = [found.get("deployment") for found in pipelines if found.get("name") == pipeline]
    return [*shared, *filter(None, own)]


def complete_pipelines(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The declared pipelines with this prefix, for `shell_complete` of an option."""
    try:
        found = declared_pipelines(find_project())
    except ProjectError:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


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
