"""The names of a project's pipelines, lists and similar items, and the file of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from batchrec_dagster.cli.component_files import read_components
from batchrec_dagster.cli.project import Project, importable_project, load_environment

if TYPE_CHECKING:
    from batchrec_dagster.config import Pipeline


# The end of the component's type.
COMPONENT_SUFFIX = ".BatchRecommendations"
NO_PIPELINES = "No pipeline is declared. Declare one: `batchrec new NAME --ratings FILE`"


class UnknownNameError(click.ClickException):
    """There is no such pipeline, user or item."""

    exit_code = 3


def make_undeclared_error(pipeline: str, declared: Iterable[str]) -> UnknownNameError:
    """The error for a pipeline that is not among the declared ones."""
    names = ", ".join(sorted(declared))
    hint = f"Declared: {names}. `batchrec check` names files that do not load."
    return UnknownNameError(f"no pipeline {pipeline!r}. {hint if names else NO_PIPELINES}")


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
    from batchrec_dagster.storage.layout import SIMILAR_ITEMS

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
    from batchrec_dagster.pipeline.built_pipelines import find_built_pipelines
    from batchrec_dagster.pipeline.loading import load_pipelines

    load_environment()
    with importable_project(project):
        try:
            definitions = load_pipelines(project.defs.parent)
        except DeclarationError:
            return []
    return find_built_pipelines(definitions).places


class _DeclaredPipeline(NamedTuple):
    """A pipeline in a readable defs.yaml."""

    name: str
    settings: dict[str, Any]
    """Its blocks, as they are written there."""
    file: Path


def _read_pipelines(project: Project) -> Iterator[_DeclaredPipeline]:
    """Each pipeline that a readable file declares, if it has a name."""
    for component in read_components(project):
        name = component.attributes.get("name")
        if component.kind.endswith(COMPONENT_SUFFIX) and isinstance(name, str):
            yield _DeclaredPipeline(name, component.attributes, component.file)
