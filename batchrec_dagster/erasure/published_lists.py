"""The published lists, live and kept, and the users without lists that belong to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.object_store import DamagedObjectError
from batchrec_dagster.storage.published_table import (
    Edition,
    PublishedTable,
    TableWriter,
)
from batchrec_dagster.storage.table_without_users import drop_users


@dataclass(frozen=True)
class PublishedEditions:
    """The live edition, or all older ones. Number and version of an edition stay.

    An older edition that is damaged is deleted: nobody can go back to it, or read it.
    """

    table: PublishedTable
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
        return Amount(sum(self._count(edition, people) for edition in self._list()), "rows")

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
            current = self.table.current()
            yield from [current] if current is not None else []
        else:
            yield from self.table.history_editions()

    def _count(self, edition: Edition, people: People) -> int:
        import polars as pl

        try:
            rows = self.table.read_edition(edition).filter(people.are_in("user_id"))
        except DamagedObjectError:
            if self.is_live:
                raise
            return 0
        number = int(rows.select(pl.len()).collect(engine="streaming").item())
        return number or int(people.is_mentioned(_format(edition.about)))

    def _erase(self, edition: Edition, people: People) -> int:
        number = self._count(edition, people)
        if number:
            drop_users(self.table, edition, people.series)
        if people.is_mentioned(_format(edition.about)):
            self._redact_about(edition, people)
        return number

    def _redact_about(self, edition: Edition, people: People) -> None:
        """Take the people out of what the edition's checks said when it was published."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        opened_edition, file = self.table.open_edition(edition)
        about = dict(opened_edition.about)
        about["checks"] = [
            {**check, "finding": people.redact(str(check.get("finding", "")))}
            for check in about.get("checks", [])
        ]
        with file, temporary_folder() as folder:
            source = pq.ParquetFile(file)
            with TableWriter(folder / "table.parquet") as writer:
                writer.write(pa.Table.from_batches([], source.schema_arrow.remove_metadata()))
                for batch in source.iter_batches():
                    writer.write(pa.Table.from_batches([batch]).replace_schema_metadata(None))
                writer.finish(about)
            self.table.store.put(edition.uri, writer.path)

    def _delete_unreadable(self) -> None:
        """Delete the files of the history whose metadata cannot be read."""
        readable = {edition.uri for edition in self.table.history_editions()}
        for info in self.table.store.list(self.table.history):
            if info.uri not in readable:
                self.table.store.delete(info.uri)


def _format(about: Any) -> str:
    return json.dumps(about.get("checks", []), ensure_ascii=False)
