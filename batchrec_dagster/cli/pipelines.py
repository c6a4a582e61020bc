"""The pipelines of a project as Dagster loads them, and the errors that prevent loading."""

from __future__ import annotations

import importlib
import uuid
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
    from batchrec_dagster.steps.context import StepContext

NO_PIPELINES = "No pipeline is declared. Declare one: `batchrec new NAME --ratings FILE`"


class UnknownNameError(click.ClickException):
    """An error for a pipeline, a list, an edition, a user or an item that does not exist."""

    exit_code = 3


@dataclass(frozen=True)
class LoadedPipelines:
    """The result of loading a project: its pipelines, or the errors that prevent loading."""

    pipelines: dict[str, Pipeline]
    """The pipelines by name, from YAML and from Python; empty if the project does not load."""
    files: dict[str, Path]
    """The YAML or Python file that defines each pipeline, by the pipeline's name."""
    definitions: dg.Definitions | None
    """Dagster's definitions; None if the project does not load."""
    errors: list[str]
    """The errors that prevent loading, one line each."""

    @property
    def addresses(self) -> list[str]:
        """The sorted addresses of all lists, such as `shop/newsletter`.

        The address of a pipeline's only list is the pipeline's name.
        """
        return sorted(
            published.address
            for pipeline in self.pipelines.values()
            for published in pipeline.published_lists()
            if published.is_addressed
        )

    def require_any(self) -> None:
        """Raise an error unless the project loads and declares a pipeline.

        Raises click.ClickException if the project does not load, UnknownNameError if it declares no
        pipeline.
        """
        if self.errors:
            raise click.ClickException("\n".join(self.errors))
        if not self.pipelines:
            raise UnknownNameError(NO_PIPELINES)

    def require(self, name: str) -> Pipeline:
        """Return the pipeline with this name.

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
        """Raise an error unless a list has this address.

        Raises the same errors as `require`.
        """
        self.require_any()
        if address not in self.addresses:
            raise make_undeclared_error(address, self.addresses)

    def open_steps(self, command: str, log: logging.Logger) -> dict[str, StepContext]:
        """Return a step's context for each pipeline, by the pipeline's name.

        command: the name of the command, such as `forget`. Its locks show this name.

        Raises click.ClickException if the project does not load.
        """
        from batchrec_dagster.pipeline.asset_keys import resource_key
        from batchrec_dagster.steps.context import Run, StepContext

        if self.definitions is None:
            raise click.ClickException("\n".join(self.errors))
        if not self.pipelines:
            # Without a pipeline, the project has no resources of batchrec.
            return {}
        opened = self.definitions.resources or {}
        personalize = opened[resource_key("personalize")]
        storage = opened[resource_key("storage")].opened
        run = f"{command}-{uuid.uuid4().hex[:8]}"
        return {
            name: StepContext(
                pipeline,
                storage,
                Run(run, run),
                personalize.open_resources(log, pipeline.tags),
                personalize.read_prices(),
            )
            for name, pipeline in self.pipelines.items()
        }

    def list_assets(self, name: str) -> list[dg.AssetKey]:
        """Return the keys of the pipeline's assets."""
        from batchrec_dagster.pipeline.declared import PIPELINE

        assert self.definitions is not None
        specs = self.definitions.resolve_all_asset_specs()
        return [spec.key for spec in specs if spec.metadata.get(PIPELINE) == name]


def load_pipelines(project: Project) -> LoadedPipelines:
    """Load the whole project with Dagster.

    Errors are not raised, but returned as a part of the result.
    """
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


def describe_runs_under_way(loaded: LoadedPipelines, step: StepContext) -> list[str]:
    """Return a line for each run that writes files of the pipeline, or soon will.

    A line is `run ID of JOB is under way`. Raises the same errors as `open_dagster_instance`.
    """
    from batchrec_dagster.pipeline.automation import runs_under_way

    with open_dagster_instance() as instance:
        assets = loaded.list_assets(step.pipeline.name)
        return runs_under_way.describe_runs_under_way(step, assets, instance)


def find_definitions_errors(project: Project) -> list[str]:
    """Return a line about the error in the project's own definitions; empty if they load.

    The definitions do not load if, for example, two resources have the same key.
    """
    import dagster as dg

    from batchrec_dagster.pipeline.loading import hide_preview_warnings

    module = project.definitions_module
    with hide_preview_warnings():
        try:
            if find_spec(module) is None:
                return []
            for value in vars(importlib.import_module(module)).values():
                # `@dg.definitions` turns a function into an object with this attribute.
                definitions = value() if hasattr(value, "load_fn") else value
                if isinstance(definitions, dg.Definitions):
                    dg.Definitions.validate_loadable(definitions)
        except Exception as error:  # A project's own code can raise anything.
            first_line = str(error).strip().partition("\n")[0]
            return [f"{module}: {type(error).__name__}: {first_line}"]
    return []


def warn_of_errors(loaded: LoadedPipelines) -> None:
    """Print to stderr the errors that keep the project from loading.

    Without this warning, nobody would notice that the lists grow old.
    """
    if loaded.errors:
        lines = fit_terminal("\n".join(map(escape_invisible, loaded.errors)), indentation="  ")
        click.echo(
            f"The project does not load, so nothing is refreshed until it is fixed:\n{lines}",
            err=True,
        )


def make_undeclared_error(name: str, declared: Iterable[str]) -> UnknownNameError:
    """Return the error for a pipeline or a list that is not declared.

    declared: the names that are declared.
    """
    names = ", ".join(sorted(declared))
    hint = f"Declared: {names}" if names else NO_PIPELINES
    return UnknownNameError(f"no pipeline {name!r}. {hint}")


def choose_pipeline(loaded: LoadedPipelines) -> str:
    """Return the name of the project's only pipeline.

    Raises click.UsageError if there are several pipelines, and the same errors as `require_any`.
    """
    loaded.require_any()
    if len(loaded.pipelines) > 1:
        names = ", ".join(sorted(loaded.pipelines))
        raise click.UsageError(f"name one of the pipelines: {names}")
    (name,) = loaded.pipelines
    return name


def expand_names(names: Iterable[str], addresses: Iterable[str]) -> list[str]:
    """Return the addresses of the lists that these names stand for.

    The name of a pipeline stands for all its lists. A name that stands for no address is returned
    unchanged.
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
