"""What a command works on: the project, found without loading its pipelines, and the deployment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import yaml

if TYPE_CHECKING:
    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.deployment import Deployment
    from batchrec_dagster.pipeline.component import BatchRecommendations
    from batchrec_dagster.storage.resource import StorageResource

# The end of the component's type. `config` has the whole name, but importing it would make shell
# completion slow.
COMPONENT_SUFFIX = ".BatchRecommendations"
NO_PIPELINES = "No pipeline is declared. Declare one: batchrec new NAME --ratings FILE"


class ProjectError(click.ClickException):
    """There is no project, or its pyproject.toml cannot be read."""


class UnknownNameError(click.ClickException):
    """There is no such pipeline, user or item."""

    exit_code = 3


def make_undeclared_error(pipeline: str, declared: Iterable[str]) -> UnknownNameError:
    """The error for a pipeline that is not among the declared ones."""
    names = ", ".join(sorted(declared))
    hint = f"Declared: {names}. `batchrec check` names files that do not load."
    return UnknownNameError(f"no pipeline {pipeline!r}. {hint if names else NO_PIPELINES}")


@dataclass(frozen=True)
class Project:
    """A folder whose pyproject.toml has [tool.dg.project], as Dagster looks for it."""

    root: Path
    module: str
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


def find_declared_pipelines(project: Project) -> dict[str, Path]:
    """The names of the declared pipelines, and the file of each; skips unreadable files."""
    return {pipeline.name: pipeline.file for pipeline in _read_pipelines(project)}


def find_declared_lists(project: Project) -> dict[str, Path]:
    """The addresses of the declared pipelines and lists, and the file of each.

    A pipeline with `lists` has an address for each of them, such as shop/newsletter, in place of
    its name. Unreadable files are skipped.
    """
    addresses: dict[str, Path] = {}
    for pipeline in _read_pipelines(project):
        lists = pipeline.settings.get("lists")
        list_names = [*lists] if isinstance(lists, dict) else []
        addresses |= dict.fromkeys(_list_addresses(pipeline.name, list_names), pipeline.file)
    return addresses


def _list_addresses(pipeline: str, list_names: Iterable[str]) -> list[str]:
    """The address of each list of a pipeline; without lists, its name alone."""
    return [f"{pipeline}/{list_name}" for list_name in list_names] or [pipeline]


def expand_names(names: Iterable[str], addresses: Iterable[str]) -> list[str]:
    """The addresses that these names stand for. The name of a pipeline stands for all its lists.

    A name that stands for none of the addresses is returned as it is.
    """
    all_addresses = [*addresses]
    expanded: list[str] = []
    for name in names:
        below = [
            address
            for address in all_addresses
            if address == name or address.startswith(f"{name}/")
        ]
        expanded += below or [name]
    return list(dict.fromkeys(expanded))


def read_pipeline_name(address: str) -> str:
    """The name of the pipeline that has this address, or whose list has it."""
    return address.partition("/")[0]


def find_pipelines(project: Project) -> dict[str, Path]:
    """The names of all pipelines, and the file of each: declared in YAML, or made by Python.

    A project whose Python makes pipelines is loaded for that, which takes seconds.
    """
    files = {pipeline.name: file for pipeline, file in _load_python_pipelines(project)}
    return {**files, **find_declared_pipelines(project)}


def find_lists(project: Project) -> dict[str, Path]:
    """The addresses of all pipelines and lists, as `find_declared_lists` has them."""
    addresses: dict[str, Path] = {}
    for pipeline, file in _load_python_pipelines(project):
        addresses |= dict.fromkeys(_list_addresses(pipeline.name, pipeline.lists), file)
    return {**addresses, **find_declared_lists(project)}


def find_similar_items(project: Project) -> dict[str, Path]:
    """The address of each pipeline's similar items, such as shop/similar_items, and its file."""
    from batchrec_dagster.storage.paths import SIMILAR_ITEMS

    files: dict[str, Path] = {}
    for pipeline, file in _load_python_pipelines(project):
        if pipeline.similar_items is not None:
            files[pipeline.name] = file
    for declared_pipeline in _read_pipelines(project):
        if isinstance(declared_pipeline.settings.get(SIMILAR_ITEMS), dict):
            files[declared_pipeline.name] = declared_pipeline.file
    return {f"{name}/{SIMILAR_ITEMS}": file for name, file in files.items()}


def _load_python_pipelines(project: Project) -> list[tuple[Pipeline, Path]]:
    """The pipelines of a project whose Python names their class, and the file of each.

    Empty for other projects, and if the project does not load: `batchrec check` says why.
    """
    name = COMPONENT_SUFFIX.removeprefix(".").encode()
    ours = Path(__file__).parents[1]
    files = [file for file in project.defs.parent.rglob("*.py") if not file.is_relative_to(ours)]
    if not any(name in file.read_bytes() for file in files):
        return []
    from batchrec_dagster.config.declaration_errors import DeclarationError
    from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
    from batchrec_dagster.pipeline.loading import load_pipelines

    load_environment()
    with importable_project(project):
        try:
            tree = load_pipelines(project.defs.parent).component_tree
        except DeclarationError:
            return []
    assert tree is not None, "load_pipelines makes one"
    return get_built_pipelines(tree).places


def load_component(project: Project, name: str) -> BatchRecommendations:
    """The pipeline of this name, declared in YAML or made by Python.

    Raises DeclarationError if its file is broken, and UnknownNameError if there is none.
    """
    from batchrec_dagster.pipeline.component import BatchRecommendations
    from batchrec_dagster.pipeline.trial_definitions import load_pipeline

    load_environment()
    declared = find_declared_pipelines(project)
    if name in declared:
        with importable_project(project):
            return load_pipeline(project.defs, declared[name], name)
    for pipeline, _ in _load_python_pipelines(project):
        if pipeline.name == name and isinstance(pipeline, BatchRecommendations):
            return pipeline
    raise make_undeclared_error(name, declared)


class TextDates(yaml.SafeLoader):
    """Leaves dates as text, as Dagster does: 2026-02-30 would stop the reading of all files."""


TextDates.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _DeclaredComponent(NamedTuple):
    """A component in a readable defs.yaml."""

    kind: str
    """Its `type`."""
    attributes: dict[str, Any]
    file: Path
    template_vars_module: str | None


def _read_components(project: Project) -> Iterator[_DeclaredComponent]:
    """Each readable component of the project."""
    for file in sorted(project.defs.rglob("defs.yaml")):
        try:
            documents = list(yaml.load_all(file.read_text(encoding="utf-8"), TextDates))
        except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
            continue
        for document in documents:
            if isinstance(document, dict):
                attributes = document.get("attributes") or {}
                module = document.get("template_vars_module")
                if isinstance(attributes, dict):
                    yield _DeclaredComponent(
                        str(document.get("type")),
                        attributes,
                        file,
                        module if isinstance(module, str) else None,
                    )


class _DeclaredPipeline(NamedTuple):
    """A pipeline in a readable defs.yaml."""

    name: str
    settings: dict[str, Any]
    """Its blocks, as they are written there."""
    file: Path


def _read_pipelines(project: Project) -> Iterator[_DeclaredPipeline]:
    """Each pipeline that a readable file declares, if it has a name."""
    for component in _read_components(project):
        name = component.attributes.get("name")
        if component.kind.endswith(COMPONENT_SUFFIX) and isinstance(name, str):
            yield _DeclaredPipeline(name, component.attributes, component.file)


def load_environment() -> Mapping[str, str]:
    """The environment, with .env of this folder added, as Dagster does."""
    from dotenv import dotenv_values

    values = dotenv_values(Path(".env"))
    os.environ.update({name: value for name, value in values.items() if value is not None})
    return os.environ


def make_job_command(job: str, module: str | None = None) -> list[str]:
    """Dagster's command that runs a job of the project in a process of its own.

    Its run configuration and tags can be appended as options.

    module: the module whose definitions have the job; by default the project's.
    """
    project = find_project()
    dagster = [sys.executable, "-m", "batchrec_dagster.cli.dagster_command"]
    definitions = ["-m", module or project.definitions_module, "-d", str(project.code)]
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


def format_program(folder: Path | None = None) -> str:
    """How to call batchrec of this environment from the folder, by default the working one."""
    path = Path(sys.executable).parent / "batchrec"
    on_path = shutil.which(path.name) == str(path)
    return path.name if on_path else shlex.quote(str(shorten_path(path, folder)))


def shorten_path(path: Path, folder: Path | None = None) -> Path:
    """The path relative to the folder, by default the working one, if it is below it."""
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def get_terminal_width() -> int | None:
    """Columns of the terminal; None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def load_storage(pipeline: str | None = None) -> StorageResource:
    """The storage of the project, or of a pipeline with a deployment of its own.

    pipeline: its name, or the address of one of its lists.

    Raises click.ClickException if a setting of the deployment is wrong.
    """
    return load_deployment(pipeline).storage_resource


def load_deployment(pipeline: str | None = None) -> Deployment:
    """The project's deployment, or a pipeline's own.

    Raises click.ClickException if a setting is wrong.
    """
    from batchrec_dagster.config.project import DeploymentSettings
    from batchrec_dagster.config.templates import fill_in, make_variables
    from batchrec_dagster.deployment import Deployment, DeploymentError

    variables = dict(load_environment())
    try:
        for declared, scope, root in _read_deployments(pipeline):
            values = make_variables(variables, scope, root)
            settings = {name: fill_in(str(value), values) for name, value in declared.items()}
            variables |= DeploymentSettings.model_validate(settings).variables
        with _importable_project_if_any():
            return Deployment.from_environment(variables)
    except (DeploymentError, ValueError) as error:
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


def _read_deployments(
    pipeline: str | None,
) -> list[tuple[dict[str, Any], dict[str, Any], Path]]:
    """The settings of each BatchrecResources in the project, then those of the pipeline.

    With each are the template variables of its file, and the project's folder.
    """
    name = None if pipeline is None else read_pipeline_name(pipeline)
    try:
        project = find_project()
    except ProjectError:
        return []
    shared: list[tuple[dict[str, Any], dict[str, Any], Path]] = []
    own: list[tuple[dict[str, Any], dict[str, Any], Path]] = []
    for component in _read_components(project):
        if component.kind.endswith(".BatchrecResources"):
            settings, deployments = component.attributes, shared
        elif component.kind.endswith(COMPONENT_SUFFIX) and component.attributes.get("name") == name:
            settings, deployments = component.attributes.get("deployment") or {}, own
        else:
            continue
        if settings:
            scope = _load_template_variables(component, project)
            deployments.append((settings, scope, project.root))
    return [*shared, *own]


def _load_template_variables(component: _DeclaredComponent, project: Project) -> dict[str, Any]:
    """What the functions of the component's template_vars_module return, by their names.

    Those that need Dagster's context of a load are left out.
    """
    module_name = component.template_vars_module
    if module_name is None:
        return {}
    from importlib import import_module
    from inspect import signature

    from batchrec_dagster.dagster_internals.components import find_inline_template_vars_in_module

    if module_name.startswith("."):
        folder = component.file.parent.relative_to(project.code)
        module_name = ".".join(folder.parts) + module_name
    with importable_project(project):
        functions = find_inline_template_vars_in_module(import_module(module_name))
    return {
        name: function()
        for name, function in functions.items()
        if not signature(function).parameters
    }


def complete_pipelines(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The declared pipelines with this prefix, for `shell_complete` of an option."""
    return _complete(find_declared_pipelines, incomplete)


def complete_lists(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The declared pipelines and lists with this prefix, for `shell_complete` of an option."""
    return _complete(
        lambda project: {*find_declared_pipelines(project), *find_declared_lists(project)},
        incomplete,
    )


def _complete(find_names: Callable[[Project], Iterable[str]], incomplete: str) -> list[str]:
    try:
        names = find_names(find_project())
    except ProjectError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


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
        module=module,
        defs=code.joinpath(*defs.split(".")),
        location_name=str(project.get("code_location_name", file.parent.name)),
        definitions_module=str(project.get("code_location_target_module", f"{module}.definitions")),
    )
