"""The names of a project's pipelines, lists and similar items, and the file of each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from batchrec_dagster.cli.component_files import read_components
from batchrec_dagster.cli.project import Project

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


class DeclaredPipeline(NamedTuple):
    """What a project says of a pipeline: its names, and the file that has them."""

    name: str
    lists: tuple[str, ...]
    """The names of its lists, if it has several."""
    has_similar_items: bool
    file: Path

    @property
    def addresses_of_users_lists(self) -> list[str]:
        """The address of each list of users, such as shop/newsletter; of an only one, shop."""
        return [f"{self.name}/{list_name}" for list_name in self.lists] or [self.name]

    @property
    def addresses(self) -> list[str]:
        """The same, and that of the similar items, such as shop/similar_items."""
        from batchrec_dagster.storage.layout import SIMILAR_ITEMS

        similar_items = [f"{self.name}/{SIMILAR_ITEMS}"] if self.has_similar_items else []
        return [*self.addresses_of_users_lists, *similar_items]


def read_declared_pipelines(project: Project) -> dict[str, DeclaredPipeline]:
    """The pipelines that readable files declare, by name."""
    pipelines: dict[str, DeclaredPipeline] = {}
    for component in read_components(project):
        name, lists = component.attributes.get("name"), component.attributes.get("lists")
        if component.kind.endswith(COMPONENT_SUFFIX) and isinstance(name, str):
            pipelines[name] = DeclaredPipeline(
                name,
                tuple(lists) if isinstance(lists, dict) else (),
                isinstance(component.attributes.get("similar_items"), dict),
                component.file,
            )
    return pipelines


def read_pipelines(project: Project) -> dict[str, DeclaredPipeline]:
    """All pipelines by name: those declared in YAML, and those made by Python.

    A project whose Python makes pipelines is loaded for that, which takes seconds.
    """
    made = {
        pipeline.name: DeclaredPipeline(
            pipeline.name, tuple(pipeline.lists), pipeline.similar_items is not None, file
        )
        for pipeline, file in _load_python_pipelines(project)
    }
    return {**made, **read_declared_pipelines(project)}


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


def _load_python_pipelines(project: Project) -> list[tuple[Pipeline, Path]]:
    """The pipelines of a project whose Python names their class, and the file of each.

    Empty for other projects, and if the project does not load: `batchrec check` says why.
    """
    name = COMPONENT_SUFFIX.removeprefix(".").encode()
    ours = Path(__file__).parents[1]
    files = [file for file in project.defs.parent.rglob("*.py") if not file.is_relative_to(ours)]
    if not any(name in file.read_bytes() for file in files):
        return []
    from batchrec_dagster.pipeline.built_pipelines import find_built_pipelines
    from batchrec_dagster.pipeline.declaration_errors import DeclarationError
    from batchrec_dagster.pipeline.loading import load_pipelines

    try:
        definitions = load_pipelines(project.defs.parent)
    except DeclarationError:
        return []
    built_pipelines = find_built_pipelines(definitions).all
    return [(built.pipeline, built.origin.file) for built in built_pipelines]
