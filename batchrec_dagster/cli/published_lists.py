"""The published lists in the storage, declared or not, for the commands that show them."""

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
    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.editions.nights import Night
    from batchrec_dagster.storage.connection import Storage


def find_lists(project: Project | None, pipeline: str | None) -> list[ListFiles]:
    """Return the files of the published lists.

    project: the current project, if any. Its declarations explain why lists are missing.
    pipeline: the name of a pipeline, or the address of a list, to return only its lists; None for
        all lists.

    Raises UnknownNameError if there are no such lists, and UserError.
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
    """Return the error for lists that are not declared, or not published yet.

    pipeline: the name of the pipeline, or the address of the list, that is wanted; None for all
        lists.
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
    """Return why no edition has this address.

    Either the address is a pipeline's, and the pipeline has several lists, or nothing is published.
    """
    from batchrec_dagster.reporting.insight.published_tables import find_published

    lists = [lists.keys.address for lists in find_published(files.storage, files.keys.pipeline)]
    if lists:
        return f"{address} has several lists, each with its own editions: name {' or '.join(lists)}"
    return (
        f"{address} has published nothing: {files.storage.where(files.editions.uri)} does not exist"
    )


def read_ended_runs_if_any(lists: Sequence[ListFiles]) -> dict[str, list[Night]]:
    """Return the runs that Dagster reports as failed, by the address of each list.

    Returns nothing if Dagster has no history yet. If the history cannot be opened, prints a line on
    stderr and returns nothing.
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
