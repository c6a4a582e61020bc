"""The writing of lists to sinks, and the records of the places that lists were written to.

The records make it possible to erase people from every place. Each place has its own record in the
folder of its list. So a place is still known after its list is no longer declared, or after the
sink has another table or format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.subjects import USERS
from batchrec_dagster.errors import UserError
from batchrec_dagster.sinks import Sink, SinkContext, SinkResult, Sinks
from batchrec_dagster.storage.erased import read_erased_users
from batchrec_dagster.storage.layout import ListKeys
from batchrec_dagster.storage.records import load, save


class SinkRecord(BaseModel):
    """A place that a list was written to."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """The sink's key in the YAML."""
    settings: dict[str, Any]
    place: str | None
    """The setting that says where the place is; None for a place in the pipeline's own storage."""
    erased_users: str | None = None
    """The version of the list of erased users who were left out of the last write.

    None if nobody had been erased then, or if the last write did not finish.
    """

    @property
    def sink(self) -> Sink:
        """The sink with the recorded settings."""
        return Sinks.model_validate({self.kind: self.settings}).declared[self.kind]


def write_sink(kind: str, sink: Sink, lists: pl.LazyFrame, context: SinkContext) -> SinkResult:
    """Write the lists to the sink in place of the old lists, and record the place.

    The lists of erased users are left out.

    kind: the sink's key in the YAML.

    Raises UserError, or Retry if a retry may work.
    """
    files = _open_files(context)
    erased = read_erased_users(files)
    if erased and context.subject == USERS:
        # The lists may have erased users if the storage was restored from a backup.
        erased_ids = erased.find(_list_users(lists))
        lists = lists.filter(~pl.col(USERS.column).is_in(erased_ids.implode()))
    description = sink.describe(context.project)
    settings = sink.model_dump(mode="json", by_alias=True)
    record = SinkRecord(kind=kind, settings=settings, place=description.place)
    # If no setting says where the place is, each kind of file has its own place.
    digest = hashlib.sha256((record.place or description.kind).encode()).hexdigest()
    uri = files.uri(files.keys.sink_record(f"{kind}-{digest[:8]}"))
    # The record is saved before the write, so that the place is known if the write is killed.
    save(files.storage.store, uri, record)
    result = sink.write(lists, context)
    save(files.storage.store, uri, record.model_copy(update={"erased_users": erased.version}))
    return result


def count_sinks(context: SinkContext) -> int:
    """Return the number of places that the list was written to."""
    files = _open_files(context)
    return len(files.storage.store.list(files.uri(files.keys.sink_record())))


def write_sinks_again(
    lists: pl.LazyFrame, context: SinkContext, owners: Mapping[str, str]
) -> Iterator[SinkResult]:
    """Write the lists again to every place that was last written before the newest erasure.

    The lists of erased users are left out. Yield the result of each write. The record of a place is
    deleted if the place no longer has lists, or if it now belongs to another list.

    owners: the address of the list that declares each place as its sink, by place.

    Raises UserError.
    """
    files = _open_files(context)
    store = files.storage.store
    erased = read_erased_users(files)
    for info in store.list(files.uri(files.keys.sink_record())):
        where = files.storage.where(info.uri)
        record = load(store, info.uri, SinkRecord)
        if record is None:
            raise UserError(
                f"{where} is damaged, so it is not known where {context.address} was written:"
                " delete it, and run the refresh, which makes it again"
            )
        if record.erased_users == erased.version:
            continue
        is_of_others = owners.get(record.place or "", context.address) != context.address
        try:
            if not is_of_others and record.sink.has_lists(context):
                yield write_sink(record.kind, record.sink, lists, context)
            else:
                store.delete(info.uri)
        except UserError as error:
            raise UserError(
                f"{context.address}, sinks.{record.kind}: {error}; or, if nobody reads these lists"
                f" any more, delete {where}"
            ) from error


def _open_files(context: SinkContext) -> ListFiles:
    return ListFiles(context.storage, ListKeys(context.address))


def _list_users(lists: pl.LazyFrame) -> pl.Series:
    """Return the distinct ids of the users who have a list."""
    users = lists.select(pl.col("user_id").unique())
    return users.collect(engine="streaming").to_series()
