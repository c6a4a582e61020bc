"""How the columns of a PostgreSQL table follow those of the lists, from one edition to the next.

The table stays when lists are replaced, with what a data team added to it. While no partition is
attached it has no rows, so that columns can be dropped and added at no cost. This is also how a
column moves: PostgreSQL knows no other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from batchrec_dagster.sinks import sink

TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "text",
    pl.Float64: "double precision",
    pl.Int32: "integer",
    pl.Int64: "bigint",
}
# These identify a row, of lists of users and of items. They never move.
KEYS = ("user_id", "rank", "item_id", "similar_item_id")
# These are ours too, and stay, empty, when the lists no longer have them.
LASTING = ("title", "score", "arm")
# The comment of every other column that the sink makes, so that it drops no column of a team's.
MARK = "Written by batchrec"


@dataclass(frozen=True)
class TableColumn:
    """A column of the table that is there."""

    name: str
    type: str
    comment: str | None = None
    is_used: bool = False
    """Whether a view, an index, a right or the like would go with the column."""

    @property
    def is_ours(self) -> bool:
        """Whether the sink made the column, and nobody has given it another comment."""
        return self.comment == MARK or (self.name in LASTING and self.comment is None)


@dataclass(frozen=True)
class ColumnChanges:
    """What is to be done to the table before it gets the lists."""

    dropped: Sequence[str] = ()
    added: Sequence[str] = ()
    """In their order. A column that moves is dropped and added."""
    empty: Sequence[str] = ()
    """Columns that the lists no longer have, and that stay because something uses them."""


def list_types(schema: Mapping[str, pl.DataType]) -> dict[str, str]:
    """The columns of the lists with their types in PostgreSQL, in their order."""
    return {name: TYPES[type(dtype)] for name, dtype in schema.items()}


def list_new_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """The columns of a table that is made for these lists.

    One for lists with ids alone has a title too, so that people's queries stay the same when the
    titles come.
    """
    names = [*columns]
    if not {*names} <= {*KEYS, "score", "arm"}:
        return dict(columns)
    place = 3
    ordered = [*names[:place], "title", *names[place:]]
    return {name: columns.get(name, "text") for name in ordered}


def plan_changes(table: Sequence[TableColumn], columns: Mapping[str, str]) -> ColumnChanges:
    """What makes the table have the columns of the lists, in their order where that is possible.

    A column moves only if nothing uses any that would have to move. Otherwise new ones come last.

    columns: those of the lists, with their types in PostgreSQL.

    Raises SinkError if a column would get another type, and something uses it.
    """
    by_name = {column.name: column for column in table}
    gone = [column for column in table if column.comment == MARK and column.name not in columns]
    retyped = [
        column
        for column in table
        if column.comment == MARK and columns.get(column.name, column.type) != column.type
    ]
    for column in retyped:
        if column.is_used:
            raise sink.SinkError(
                f"the column {column.name} is {column.type} and would become"
                f" {columns[column.name]}, but something of the database uses it, such as a view or"
                " an index: drop that first"
            )
    dropped = [column.name for column in [*gone, *retyped] if not column.is_used]
    empty = [column.name for column in gone if column.is_used]
    present = [name for name in by_name if name in columns and name not in dropped]
    moved = _list_moved(present, [*columns])
    if not all(by_name[name].is_ours and not by_name[name].is_used for name in moved):
        moved = []
    dropped += moved
    added = [name for name in columns if name not in by_name or name in dropped]
    return ColumnChanges(dropped, added, empty)


def _list_moved(present: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The columns that have to be added again, after new ones, for the wanted order.

    present: the wanted columns that the table has, in its order.
    """
    in_place = 0
    while in_place < len(present) and present[in_place] == wanted[in_place]:
        in_place += 1
    return [*present[in_place:]]
