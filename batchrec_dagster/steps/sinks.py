"""Writes lists to the sinks, and records where they were written, so that people can be erased.

A place has a record of its own in the folder of its list. So it is known after the list is declared
no more, or its sink has another table or format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from batchrec_dagster.errors import UserError
from batchrec_dagster.sinks import Sink, SinkContext, SinkResult, Sinks
from batchrec_dagster.storage.erased import read_erased_users
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.list_subjects import USERS
from batchrec_dagster.storage.records import load, save


class SinkRecord(BaseModel):
    """A place that a list was written to."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """The sink's key in the YAML."""
    settings: dict[str, Any]
    place: str | None
    """The setting that says where it is; None in the pipeline's own storage."""
    erased_users: str | None = None
    """The version of the list of erased users that it was last written without.

    None if nobody was erased then, or if a write has not ended.
    """

    @property
    def sink(self) -> Sink:
        """The sink with these settings."""
        return Sinks.model_validate({self.kind: self.settings}).declared[self.kind]


def write_sink(kind: str, sink: Sink, lists: pl.LazyFrame, context: SinkContext) -> SinkResult:
    """Replace the lists in the sink's place, apart from those of erased users, and record it.

    kind: the sink's key in the YAML.
    Raises UserError, or Retry if a retry may work.
    """
    files = _open_files(context)
    erased = read_erased_users(files)
    if erased and context.subject == USERS:
        # A restored backup may have them.
        erased_ids = erased.find(_list_users(lists))
        lists = lists.filter(~pl.col(USERS.column).is_in(erased_ids.implode()))
    description = sink.describe(context.project)
    settings = sink.model_dump(mode="json", by_alias=True)
    record = SinkRecord(kind=kind, settings=settings, place=description.place)
    # Without a setting that says where, each kind of file has a place of its own.
    digest = hashlib.sha256((record.place or description.kind).encode()).hexdigest()
    uri = files.uri(files.keys.sink_record(f"{kind}-{digest[:8]}"))
    # First, so that a write that is killed is known.
    save(files.storage.store, uri, record)
    result = sink.write(lists, context)
    save(files.storage.store, uri, record.model_copy(update={"erased_users": erased.version}))
    return result


def count_sinks(context: SinkContext) -> int:
    """How many places the list of this address was written to."""
    files = _open_files(context)
    return len(files.storage.store.list(files.uri(files.keys.sink_record())))


def write_sinks_again(
    lists: pl.LazyFrame, context: SinkContext, owners: Mapping[str, str]
) -> Iterator[SinkResult]:
    """Replace the lists, without users who were erased since, wherever they were written.

    A place that is no longer there, or has the lists of others by now, is forgotten.
    owners: the address of the list that each place is declared as a sink of.
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
    """The ids of the users who have a list, each once."""
    users = lists.select(pl.col("user_id").unique())
    return users.collect(engine="streaming").to_series()
