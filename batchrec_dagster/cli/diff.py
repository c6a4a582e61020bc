"""`batchrec diff`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.project import NotFoundError, complete_pipelines
from batchrec_dagster.cli.show import print_safely, published_of

if TYPE_CHECKING:
    from batchrec_dagster.reporting.history import EditionHistory
    from batchrec_dagster.storage.published_table import Edition


@click.command(short_help="Show what changed between two editions of the recommendations.")
@click.argument("editions", metavar="[EDITION] [EDITION]", nargs=-1, type=int)
@click.option(
    "--pipeline",
    metavar="NAME",
    help="Needed if there are several.",
    shell_complete=complete_pipelines,
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(editions: tuple[int, ...], pipeline: str | None, as_json: bool) -> None:
    """Show what changed from one edition of the recommendations to another.

    Settings, data, metrics, how much of the users' lists is new, and the items that rose and fell
    most. By default the published edition is compared with the one before; one EDITION is compared
    with the published one. `batchrec rollback` lists the editions that are kept.

    \b
    Examples:
      batchrec diff                        # since the edition before
      batchrec diff 12                     # since edition 12
      batchrec diff 12 14 --pipeline shop
    """
    if len(editions) > 2:
        raise click.UsageError("name two editions at most")
    from batchrec_dagster.reporting.changes import diff_text
    from batchrec_dagster.reporting.history import EditionHistory
    from batchrec_dagster.reporting.terminal import plain
    from batchrec_dagster.storage.object_store import StorageError

    try:
        published = published_of(pipeline)
        if len(published) > 1:
            names = ", ".join(one.pipeline for one in published)
            raise click.UsageError(f"name one of the pipelines with --pipeline: {plain(names)}")
        (one,) = published
        history = EditionHistory(one.storage, one.places)
        found = history.compare(*_chosen(history, editions))
    except StorageError as error:
        raise click.ClickException(plain(str(error))) from error
    if as_json:
        print_safely(json.dumps({"pipeline": one.pipeline, **asdict(found)}, indent=2))
        return
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    print_safely(diff_text(one.pipeline, found, width))


def _chosen(history: EditionHistory, numbers: tuple[int, ...]) -> tuple[Edition, Edition]:
    """The older and the newer edition to compare. Raises NotFoundError, StorageError."""
    current = history.table.current()
    assert current is not None  # published_of has found it
    kept = {one.number: one for one in [current, *history.table.older()]}
    for number in numbers:
        if number not in kept:
            listed = ", ".join(map(str, sorted(kept)))
            raise NotFoundError(f"edition {number} is not kept. Kept: {listed}")
    if len(numbers) == 2:
        return kept[numbers[0]], kept[numbers[1]]
    before = kept[numbers[0]] if numbers else history.before(current)
    if before is None:
        raise NotFoundError(
            f"edition {current.number} is the only one, so there is nothing to compare it with"
        )
    return before, current
