"""The published lists, live and kept, and the users without lists that belong to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.edition_without import drop_users
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.objects import DamagedObjectError


@dataclass(frozen=True)
class PublishedEditions:
    """The live edition, or all older ones. Number and version of an edition stay.

    An older edition that is damaged is deleted: nobody can go back to it, or read it.
    """

    table: Editions
    is_live: bool
    of_list: str = ""
    """What its name ends with, if it is of one of several lists."""

    @property
    def name(self) -> str:
        return f"{'published lists' if self.is_live else 'older editions'}{self.of_list}"

    @property
    def consequence(self) -> str:
        return "rows removed; the edition stays"

    def count(self, people: People) -> Amount:
        number = 0
        for edition in self._list():
            try:
                number += self._count(edition, people)
            except DamagedObjectError:
                if self.is_live:
                    raise
        return Amount(number, "rows")

    def erase(self, people: People) -> int:
        number = 0
        for edition in self._list():
            try:
                number += self._erase(edition, people)
            except DamagedObjectError:
                if self.is_live:
                    raise
                self.table.store.delete(edition.uri)
        if not self.is_live:
            self._delete_unreadable()
        return number

    def _list(self) -> Iterator[Edition]:
        if self.is_live:
            current = self.table.live()
            yield from [current] if current is not None else []
        else:
            yield from self.table.kept()

    def _count(self, edition: Edition, people: People) -> int:
        import polars as pl

        rows = self.table.read_rows(edition).filter(people.are_in("user_id"))
        return int(rows.select(pl.len()).collect(engine="streaming").item())

    def _erase(self, edition: Edition, people: People) -> int:
        number = self._count(edition, people)
        if number:
            drop_users(self.table, edition, people.series)
        return number

    def _delete_unreadable(self) -> None:
        """Delete the files of the history whose metadata cannot be read."""
        readable = {edition.uri for edition in self.table.kept()}
        for info in self.table.store.list(self.table.history):
            if info.uri not in readable:
                self.table.store.delete(info.uri)
