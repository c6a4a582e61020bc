"""The `batchrec diff` command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.pipelines import UnknownNameError
from batchrec_dagster.cli.project import enter_project_if_any, load_storage
from batchrec_dagster.cli.published_lists import explain_nothing_published, find_lists

if TYPE_CHECKING:
    from batchrec_dagster.cli.project import Project
    from batchrec_dagster.editions.edition import Edition
    from batchrec_dagster.editions.files import ListFiles


@click.command(
    short_help="Show what changed between two editions, or what two pipelines differ in."
)
@click.argument("names", metavar="[EDITION|NAME] [EDITION|NAME]", nargs=-1)
@click.option("--pipeline", metavar="NAME", help="Needed if there are several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(names: tuple[str, ...], pipeline: str | None, as_json: bool) -> None:
    """Show what changed from one edition of the recommendations to another.

    Shows the changes in settings, data, metrics and users' lists, and the items that rose and fell
    most. By default, compares the published edition with the edition that readers had before, which
    is never one that was rolled back. With one EDITION, compares the published edition with that
    one. `batchrec rollback` lists the editions that are kept.

    With two NAMES, compares the published lists of the second pipeline with the first pipeline's.

    \b
    Examples:
      batchrec diff                        # since what readers had before
      batchrec diff 12                     # since edition 12
      batchrec diff 12 14 --pipeline shop
      batchrec diff shop other_shop
    """  # noqa: D301
    if len(names) > 2:
        raise click.UsageError("name two editions or pipelines at most")
    project = enter_project_if_any()
    if all(name.isdecimal() for name in names):
        compared = _choose_editions(_find_list(project, pipeline), [int(name) for name in names])
    else:
        compared = _choose_lists(names, pipeline)
    _compare(*compared, as_json=as_json)


def _find_list(project: Project | None, pipeline: str | None) -> ListFiles:
    """Return the files of the only published list that fits.

    Raises click.UsageError if there are several.
    """
    lists = find_lists(project, pipeline)
    if len(lists) > 1:
        listed = ", ".join(files.keys.address for files in lists)
        raise click.UsageError(f"name one of these with --pipeline: {listed}")
    return lists[0]


def _compare(
    before: tuple[ListFiles, Edition], after: tuple[ListFiles, Edition], *, as_json: bool
) -> None:
    """Print how the second edition differs from the first.

    before, after: an edition, with the files of its list.
    """
    from batchrec_dagster.reporting.insight.changes import compare_editions
    from batchrec_dagster.reporting.views.diff import print_changes
    from batchrec_dagster.reporting.views.terminal import Terminal

    old_files, old = before
    new_files, new = after
    changes = compare_editions(
        (old, old_files.editions.read_rows(old)), (new, new_files.editions.read_rows(new))
    )
    old_address, new_address = old_files.keys.address, new_files.keys.address
    if as_json:
        described = {"pipeline": new_address, **changes.model_dump(mode="json")}
        click.echo(json.dumps(described, indent=2))
        return
    other = "" if old_address == new_address else f"{old_address}, "
    title = f"{new_address}: edition {new.number} compared with {other}edition {old.number}"
    print_changes(Terminal(), title, changes)


def _choose_lists(
    names: Sequence[str], pipeline: str | None
) -> tuple[tuple[ListFiles, Edition], tuple[ListFiles, Edition]]:
    """Return the live editions of the two named lists, with their files.

    Raises click.UsageError unless there are two names, and UnknownNameError if a list has published
    nothing.
    """
    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.storage.layout import ListKeys

    if len(names) != 2 or pipeline is not None or any(name.isdecimal() for name in names):
        raise click.UsageError("name two pipelines, or editions of one: --pipeline NAME 12 14")
    storage = load_storage()
    chosen = []
    for name in names:
        files = ListFiles(storage, ListKeys(name))
        edition = files.editions.live()
        if edition is None:
            raise UnknownNameError(explain_nothing_published(name, files))
        chosen.append((files, edition))
    before, after = chosen
    return before, after


def _choose_editions(
    files: ListFiles, numbers: Sequence[int]
) -> tuple[tuple[ListFiles, Edition], tuple[ListFiles, Edition]]:
    """Return the older and the newer edition to compare, with the files of their list.

    numbers: the editions that the user named, at most two.

    Raises UnknownNameError if a named edition is not kept, or if there is nothing to compare with;
    and UserError.
    """
    # The newest edition comes first. `find_lists` returns only lists with a live edition.
    kept_editions = files.editions.live_and_older()
    current = kept_editions[0]
    editions = {edition.number: edition for edition in kept_editions}
    numbers_kept = ", ".join(str(number) for number in sorted(editions) if number != current.number)
    for number in numbers:
        if number not in editions:
            raise UnknownNameError(
                f"edition {number} is not kept. Kept: {numbers_kept or 'none'}, and"
                f" {current.number}, which is published"
            )
    if len(numbers) == 2:
        return (files, editions[numbers[0]]), (files, editions[numbers[1]])
    if numbers:
        return (files, editions[numbers[0]]), (files, current)
    night = files.editions.record().find_before(current)
    before = [edition for edition in kept_editions if night is not None and night.is_of(edition)]
    if before:
        return (files, before[0]), (files, current)
    if numbers_kept:
        raise UnknownNameError(
            f"what readers had before edition {current.number} is not kept. Name the edition to"
            f" compare it with: {numbers_kept}"
        )
    raise UnknownNameError(
        f"edition {current.number} is the only one, so there is nothing to compare it with"
    )
