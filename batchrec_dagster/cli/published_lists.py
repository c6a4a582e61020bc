"""The lists that are published in the storage, declared or not, for the commands that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.dagster_home import HistoryError, open_instance_if_any
from batchrec_dagster.cli.pipelines import (
    NO_PIPELINES,
    UnknownNameError,
    expand_names,
    load_pipelines,
    make_undeclared_error,
)
from batchrec_dagster.cli.project import load_storage

if TYPE_CHECKING:
    from batchrec_dagster.cli.project import Project
    from batchrec_dagster.storage.connection import Storage
    from batchrec_dagster.storage.layout import ListFiles
    from batchrec_dagster.storage.nights import Night


def find_lists(project: Project | None, pipeline: str | None) -> list[ListFiles]:
    """The files of all published lists.

    project: the one here, if any, whose declarations explain why lists are missing.
    pipeline: the name of the only pipeline whose lists are wanted, or the address of the only list;
        None for all.

    Raises UnknownNameError if there is none, and UserError.
    """
    from batchrec_dagster.reporting.insight.published_tables import find_published

    storage = load_storage()
    lists = {files.keys.address: files for files in find_published(storage)}
    selected = [*lists] if pipeline is None else expand_names([pipeline], [*lists])
    if not selected or not {*selected} <= {*lists}:
        raise _make_unpublished_error(project, storage, pipeline, [*lists])
    return [lists[address] for address in selected]


def _make_unpublished_error(
    project: Project | None, storage: Storage, pipeline: str | None, published: Sequence[str]
) -> UnknownNameError:
    """The error for lists that are not published: they are not declared, or not made yet.

    pipeline: the name of the only pipeline whose lists are wanted, or the address of one.
    published: the addresses of all published lists.
    """
    loaded = None if project is None else load_pipelines(project)
    declared = [] if loaded is None else loaded.addresses
    named = [] if pipeline is None else expand_names([pipeline], declared)
    if declared and not {*named} <= {*declared}:
        return make_undeclared_error(named[0], declared)
    if published:
        names = ", ".join(published)
        return UnknownNameError(
            f"no recommendations of {pipeline!r} yet. Published pipelines: {names}"
        )
    is_nothing_declared = loaded is not None and not loaded.errors and not declared
    make = NO_PIPELINES if is_nothing_declared else "Make them with `batchrec run`"
    return UnknownNameError(
        f"no recommendations in {storage.where(storage.uri(''))} yet. {make}, or set"
        " BATCHREC_STORAGE to where they are"
    )


def explain_nothing_published(address: str, files: ListFiles) -> str:
    """Why no edition has this address: the pipeline has several lists, or nothing is published."""
    from batchrec_dagster.reporting.insight.published_tables import find_published

    lists = [lists.keys.address for lists in find_published(files.storage, files.keys.pipeline)]
    if lists:
        return f"{address} has several lists, each with its own editions: name {' or '.join(lists)}"
    return (
        f"{address} has published nothing: {files.storage.where(files.editions.uri)} does not exist"
    )


def read_ended_runs_if_any(lists: Sequence[ListFiles]) -> dict[str, list[Night]]:
    """The runs that Dagster says failed, by the address of each list.

    Empty if Dagster has no history yet, and, after a line on stderr, if it cannot be opened.
    """
    from batchrec_dagster.pipeline.ended_runs import read_ended_runs

    try:
        with open_instance_if_any() as instance:
            if instance is None:
                return {}
            return {files.keys.address: read_ended_runs(instance, files) for files in lists}
    except HistoryError as error:
        click.echo(f"Runs that were killed are not known: {error.message}", err=True)
        return {}
