"""The output of `batchrec diff`: the differences between two editions, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.reporting.insight.changes import Change, Changes, ItemChange
from batchrec_dagster.reporting.insight.titles import shorten_title
from batchrec_dagster.reporting.views.terminal import NOT_KNOWN, Cell, Column, Terminal

COLUMNS = (
    Column(""),
    Column("before", "keep", right=True),
    Column("now", "keep", right=True),
)
# Settings may be long texts.
SETTINGS = (Column("", "keep"), Column("before", "wrap"), Column("now", "wrap"))


def print_changes(terminal: Terminal, title: str, changes: Changes) -> None:
    """Print how a newer edition differs from an older one.

    title: the compared editions, in words.
    """
    terminal.print_heading(title)
    if changes.kept is None:
        terminal.print_sentence("No user has a list in both.")
    else:
        terminal.print_sentence(
            f"{changes.kept:.1%} of a user's items were in their list before, on average over"
            f" {changes.compared:,} users; {changes.same_lists:,} lists have the same items."
        )
    terminal.print_sentence(
        f"{changes.gained:,} users are new, {changes.lost:,} have no list any more."
    )
    terminal.print_sentence(changes.caveat)
    _print_table(terminal, "Settings", changes.settings, SETTINGS, "default")
    _print_table(terminal, "Data", changes.data)
    _print_table(terminal, "Quality and cost", changes.quality)
    _print_table(terminal, "Items in more lists", changes.up)
    _print_table(terminal, "Items in fewer lists", changes.down)


def _print_table(
    terminal: Terminal,
    title: str,
    changes: Sequence[Change] | Sequence[ItemChange],
    columns: Sequence[Column] = COLUMNS,
    missing: str = NOT_KNOWN,
) -> None:
    """Print a table of values before and now; nothing if there are no rows.

    missing: the text for a value that is None.
    """
    rows = [_make_cells(change, missing) for change in changes]
    if rows:
        terminal.print_line()
        terminal.print_table(title, columns, rows)


def _make_cells(change: Change | ItemChange, missing: str) -> list[Cell]:
    if isinstance(change, ItemChange):
        return [shorten_title(change.title) or change.item, change.before, change.after]
    before = missing if change.before is None else change.before
    after = missing if change.after is None else change.after
    return [change.name, before, after]
