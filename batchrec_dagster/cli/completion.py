"""What a shell completes as the name of a pipeline or a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from batchrec_dagster.cli.declared_pipelines import find_declared_lists, find_declared_pipelines
from batchrec_dagster.cli.project import Project, ProjectError, find_project


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
