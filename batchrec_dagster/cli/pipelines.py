"""The pipelines of a project, as Dagster loads them, and what keeps a project from loading."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.dagster_home import open_dagster_instance
from batchrec_dagster.cli.project import Project
from batchrec_dagster.reporting.views.plain import escape_invisible, fit_terminal

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    import dagster as dg

    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.steps.work import PersonalizeWork

NO_PIPELINES = "No pipeline is declared. Declare one: `batchrec new NAME --ratings FILE`"


class UnknownNameError(click.ClickException):
    """There is no such pipeline, user or item."""

    exit_code = 3


@dataclass(frozen=True)
class LoadedPipelines:
    """What loading a project gave: its pipelines, or why it does not load."""

    pipelines: dict[str, Pipeline]
    """By name, those of YAML and those that Python makes. Empty if the project does not load."""
    files: dict[str, Path]
    """The file that declares or makes each of them."""
    definitions: dg.Definitions | None
    """None if the project does not load."""
    errors: list[str]
    """A line for each error that keeps a pipeline from loading."""

    @property
    def addresses(self) -> list[str]:
        """The addresses of all lists, such as shop/newsletter; of an only one, shop."""
        return sorted(
            published.address
            for pipeline in self.pipelines.values()
            for published in pipeline.published_lists()
            if published.is_addressed
        )

    def require_any(self) -> None:
        """Raise click.ClickException if the project does not load, UnknownNameError if it declares
        no pipeline."""
        if self.errors:
            raise click.ClickException("\n".join(self.errors))
        if not self.pipelines:
            raise UnknownNameError(NO_PIPELINES)

    def require(self, name: str) -> Pipeline:
        """The pipeline of this name.

        Raises click.ClickException if the project does not load, UnknownNameError if it has no such
        pipeline.
        """
        self.require_any()
        pipeline, _, list_name = name.partition("/")
        if list_name and pipeline in self.pipelines:
            raise UnknownNameError(f"{name} is a list, not a pipeline: name {pipeline}")
        if name not in self.pipelines:
            raise make_undeclared_error(name, self.pipelines)
        return self.pipelines[name]

    def require_list(self, address: str) -> None:
        """Raise as `require` does if no list has this address."""
        self.require_any()
        if address not in self.addresses:
            raise make_undeclared_error(address, self.addresses)

    def open_works(self, log: logging.Logger) -> dict[str, PersonalizeWork]:
        """What an erasure or a teardown works with, of each pipeline, by name.

        Raises click.ClickException if the project does not load.
        """
        from batchrec_dagster.pipeline.deployment import resource_key
        from batchrec_dagster.steps.work import PersonalizeWork

        if self.definitions is None:
            raise click.ClickException("\n".join(self.errors))
        resources = self.definitions.resources or {}
        works = {}
        for name, pipeline in self.pipelines.items():
            personalize = resources[resource_key("personalize")]
            storage = resources[resource_key("storage")].opened
            ensure = personalize.ensure(log, pipeline.tags)
            works[name] = PersonalizeWork(pipeline, storage, ensure, personalize.read_prices())
        return works

    def list_assets(self, name: str) -> list[dg.AssetKey]:
        """The keys of the pipeline's assets."""
        from batchrec_dagster.pipeline.declared import PIPELINE

        assert self.definitions is not None
        specs = self.definitions.resolve_all_asset_specs()
        return [spec.key for spec in specs if spec.metadata.get(PIPELINE) == name]


def load_pipelines(project: Project) -> LoadedPipelines:
    """Load all of the project by Dagster. Errors are returned, as a part of the result."""
    import dagster as dg

    from batchrec_dagster.pipeline import loading
    from batchrec_dagster.pipeline.declaration_errors import DeclarationError
    from batchrec_dagster.pipeline.declared import find_declared_pipelines

    try:
        definitions = loading.load_pipelines(project.defs.parent)
        dg.Definitions.validate_loadable(definitions)
    except DeclarationError as error:
        return LoadedPipelines({}, {}, None, str(error).splitlines())
    except Exception as error:  # A Python file in defs/ can raise anything.
        return LoadedPipelines({}, {}, None, [f"{project.defs}: {type(error).__name__}: {error}"])
    declared = find_declared_pipelines(definitions.assets)
    return LoadedPipelines(
        {pipeline.name: pipeline for pipeline, _ in declared},
        {pipeline.name: origin.file for pipeline, origin in declared},
        definitions,
        [],
    )


def describe_runs_under_way(loaded: LoadedPipelines, work: PersonalizeWork) -> list[str]:
    """`run ID of JOB is under way` for every run that writes files of the pipeline, or soon will.

    Raises as `open_dagster_instance` does.
    """
    from batchrec_dagster.pipeline.automation import runs_under_way

    with open_dagster_instance() as instance:
        assets = loaded.list_assets(work.pipeline.name)
        return runs_under_way.describe_runs_under_way(work, assets, instance)


def find_definitions_errors(project: Project) -> list[str]:
    """A line about what keeps the project's own definitions from loading; empty if they load.

    They do not load if, for example, two resources have the same key.
    """
    import dagster as dg

    from batchrec_dagster.pipeline.loading import hide_preview_warnings

    module = project.definitions_module
    with hide_preview_warnings():
        try:
            if find_spec(module) is None:
                return []
            for value in vars(importlib.import_module(module)).values():
                # A function under `@dg.definitions` has become an object with this attribute.
                definitions = value() if hasattr(value, "load_fn") else value
                if isinstance(definitions, dg.Definitions):
                    dg.Definitions.validate_loadable(definitions)
        except Exception as error:  # A project's own code can raise anything.
            first_line = str(error).strip().partition("\n")[0]
            return [f"{module}: {type(error).__name__}: {first_line}"]
    return []


def warn_of_errors(loaded: LoadedPipelines) -> None:
    """Print to stderr the errors that keep the project from loading.

    Its lists grow old, which nobody would notice otherwise.
    """
    if loaded.errors:
        lines = fit_terminal("\n".join(map(escape_invisible, loaded.errors)), indentation="  ")
        click.echo(
            f"The project does not load, so nothing is refreshed until it is fixed:\n{lines}",
            err=True,
        )


def make_undeclared_error(name: str, declared: Iterable[str]) -> UnknownNameError:
    """The error for a pipeline, or a list of one, that is not among the declared ones."""
    names = ", ".join(sorted(declared))
    hint = f"Declared: {names}" if names else NO_PIPELINES
    return UnknownNameError(f"no pipeline {name!r}. {hint}")


def choose_pipeline(loaded: LoadedPipelines) -> str:
    """The name of the project's only pipeline.

    Raises click.UsageError if there are several, and as `require_any` does.
    """
    loaded.require_any()
    if len(loaded.pipelines) > 1:
        names = ", ".join(sorted(loaded.pipelines))
        raise click.UsageError(f"name one of the pipelines: {names}")
    (name,) = loaded.pipelines
    return name


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
