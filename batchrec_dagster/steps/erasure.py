"""Erases people from everything that batchrec keeps of a pipeline.

First they are put on the list of erased users, so that nothing brings them back. What nobody needs
until the next refresh makes it again is deleted, whoever is in it: copies of sources, outputs of
jobs, reports. Tables of users and editions of lists stay, without these people's rows, so that a
rollback still works. Sinks are written again from the live lists. An erasure that was killed is
started again, and finds less to do.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.data_deletion import erase_users_from_groups, find_dataset_groups
from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.personalize.prices import summarize_costs
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.sinks import SinkContext
from batchrec_dagster.steps.cost import estimate_results, estimate_trainings
from batchrec_dagster.steps.locks import hold_locks
from batchrec_dagster.steps.sinks import count_sinks, write_sinks_again
from batchrec_dagster.steps.stored_files import PreparedRecord, put_file
from batchrec_dagster.steps.work import PersonalizeWork, list_removed_lists
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.edition_without import drop_users
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.erased import ErasedUsers, add_erased_users, read_erased_users
from batchrec_dagster.storage.layout import ListFiles, ListKeys, PipelineKeys
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster.storage.records import load, save

REMAINS_ON_AWS = (
    "In Amazon Personalize the models stay that learned from these people among all others; the"
    " next training is without them."
)
REMAINS_IN_S3 = (
    "If the bucket keeps versions, earlier versions of the objects stay until its lifecycle rule"
    " deletes them."
)


@dataclass(frozen=True)
class Trace:
    """What a pipeline has of the people in one kind of place, and what becomes of it."""

    name: str
    number: int
    unit: str
    """What is counted, in the plural: rows."""
    consequence: str
    is_of_people: bool = True
    """Whether all of it is the people's. Otherwise it is what may have something of them."""

    @property
    def amount(self) -> str:
        """The number with its unit."""
        return f"{self.number:,} {self.unit.removesuffix('s') if self.number == 1 else self.unit}"


class Receipt(BaseModel, frozen=True):
    """How many people were erased from a pipeline, when, and what was erased where, without ids."""

    pipeline: str
    started_at: datetime
    ended_at: datetime
    people: int
    """How many ids were named."""
    erased: dict[str, str]
    """How much was erased, by the name of the place."""
    suppressed: int
    """How many people the pipeline leaves out from now on."""
    remains: tuple[str, ...] = ()
    """Sentences on what is still somewhere, and when it goes."""
    batchrec: str = version("batchrec-dagster")
    """The version that erased them."""

    @property
    def key(self) -> str:
        """Its key in the storage."""
        return (
            f"{PipelineKeys(self.pipeline).erasure_receipts}{self.ended_at:%Y-%m-%dT%H%M%SZ}.json"
        )


def find_traces(work: PersonalizeWork, people: Collection[str]) -> list[Trace]:
    """What the pipeline has of the people, place by place."""

    ids = _make_series(people)
    traces = [
        *_count_table_rows(work, ids),
        Trace(
            "copied and intermediate files, reports",
            len([*_list_files_made_again(work)]),
            "files",
            "deleted; the next refresh makes them again",
            is_of_people=False,
        ),
        Trace(
            "Personalize",
            len(_find_dataset_groups(work)),
            "dataset groups",
            "a data deletion job for each dataset group, of up to a day"
            if work.ensure.on_aws
            else "datasets and models without them",
            is_of_people=False,
        ),
    ]
    for files in _open_lists(work):
        of_list = f" of {files.keys.name}" if files.keys.name else ""
        editions = files.editions
        live = editions.live()
        rows = sum(
            _count_rows(editions, edition, ids)
            for edition in [*editions.kept(), *([live] if live else [])]
        )
        traces.append(
            Trace(f"published lists{of_list}", rows, "rows", "rows removed; the editions stay")
        )
        sinks = count_sinks(_make_sink_context(work, files))
        traces.append(
            Trace(f"sinks{of_list}", sinks, "places", "written again", is_of_people=False)
        )
    return traces


def erase(
    work: PersonalizeWork,
    people: Collection[str],
    sink_owners: Mapping[str, str],
    log: logging.Logger,
) -> Receipt:
    """Erase the people from the pipeline, and return the stored receipt.

    After a kill, another call with the same people continues.
    sink_owners: the address of the list that each place is declared as a sink of.
    Raises UserError.
    """
    started_at = datetime.now(UTC)
    store, ids = work.storage.store, _make_series(people)
    with ExitStack() as locks:
        hold_locks(locks, work, f"forget-{uuid.uuid4().hex[:8]}")
        traces = find_traces(work, people)
        erased = add_erased_users(work.files, people)
        for uri in [*_list_files_made_again(work)]:
            store.delete(uri)
        shutil.rmtree(work.storage.cache, ignore_errors=True)
        log.info(f"{work.pipeline.name}: deleted what the next refresh makes again")
        remains = [*describe_remains(work), *_erase_from_personalize(work, people)]
        log.info(f"{work.pipeline.name}: erased from Personalize")
        for files in _open_lists(work):
            erase_from_editions(files.editions, ids)
        for table in _list_tables(work):
            _erase_from_table(work, table, ids)
        log.info(f"{work.pipeline.name}: erased from tables and published lists")
        # Last, because a place that cannot be reached ends the erasure.
        for files in _open_lists(work):
            remains += _write_sinks(work, files, sink_owners)
        # DynamoDB's sink deletes from its table whom it has written, and is no more in the lists.
        for table in _list_users_of_sinks(work):
            _erase_from_table(work, table, ids)
        # What was read of objects in S3 until now.
        work.storage.remove_copies()
        log.info(f"{work.pipeline.name}: wrote the sinks again")
        for trace in find_traces(work, people):
            if trace.is_of_people and trace.number:
                raise UserError(
                    f"{work.pipeline.name}: {trace.name}: there still are {trace.amount}, because"
                    " something writes there. Stop it, and run batchrec forget again with the same"
                    " ids"
                )
        receipt = Receipt(
            pipeline=work.pipeline.name,
            started_at=started_at,
            ended_at=datetime.now(UTC),
            people=len(people),
            erased={trace.name: trace.amount for trace in traces if trace.number},
            suppressed=len(erased),
            remains=tuple(remains),
        )
        save(store, work.storage.uri(receipt.key), receipt)
    return receipt


def describe_remains(work: PersonalizeWork) -> Iterator[str]:
    """Sentences on what is left somewhere, and when it goes."""
    if work.ensure.on_aws:
        yield REMAINS_ON_AWS
    if work.storage.in_s3:
        yield REMAINS_IN_S3


def estimate_next_refresh(work: PersonalizeWork) -> str:
    """What the next refresh costs on AWS, in words, besides the import."""
    costs = estimate_results(work)
    if work.pipeline.solution.retrain.every_days is None:
        costs = [*estimate_trainings(work, [work.pipeline.solution.recipe]), *costs]
    return summarize_costs(costs)


def find_sink_owners(pipelines: Collection[Pipeline]) -> dict[str, str]:
    """The address of the list that each place is declared as a sink of."""
    return {
        place: published.address
        for pipeline in pipelines
        for published in pipeline.published_lists()
        for sink in published.sinks.declared.values()
        if (place := sink.describe(pipeline.project).place)
    }


def _make_series(people: Collection[str]) -> pl.Series:
    return pl.Series("user_id", sorted(people), pl.String)


def _is_in(column: str, ids: pl.Series) -> pl.Expr:
    """Whether a row's value in the column is one of the ids; false for none."""
    return pl.col(column).is_in(ids.implode()).fill_null(value=False)


def _open_lists(work: PersonalizeWork) -> list[ListFiles]:
    """The files of each list of users: of removed ones first, then of those that are declared.

    A place that both were written to has the lists of the second in the end.
    """
    declared = [published.address for published in work.pipeline.user_lists]
    removed = [f"{work.pipeline.name}/{name}" for name in list_removed_lists(work)]
    # The list of the pipeline itself, from before it had several, is one of the removed.
    former = [address for address in [work.pipeline.name, *removed] if address not in declared]
    return [ListFiles(work.storage, ListKeys(address)) for address in [*former, *declared]]


def _list_files_made_again(work: PersonalizeWork) -> Iterator[str]:
    """The URIs of files that the next refresh makes again, and that may have people in them."""
    keys = work.pipeline.keys
    prefixes = [
        keys.raw("ratings"),
        keys.raw("users"),
        keys.job_output("batch_inference"),
        keys.job_output("batch_segments"),
        keys.work,
        keys.erasure_inputs,
    ]
    for files in _open_lists(work):
        prefixes += [
            files.keys.all_arm_users,
            f"{files.keys.report.rpartition('/')[0]}/",
            files.keys.list_record("report_tallies"),
        ]
    for prefix in dict.fromkeys(prefixes):
        for info in work.storage.store.list(work.files.uri(prefix)):
            yield info.uri


class AnyPreparedRecord(PreparedRecord, frozen=True, extra="allow"):
    """The record of a file, with whatever else its step has recorded."""


@dataclass(frozen=True)
class UserTable:
    """A file with a row for each of many users, besides the editions of lists."""

    name: str
    """What its rows are of."""
    uri: str
    column: str
    """The column of the users' ids."""
    record: str | None = None
    """The URI of the record that says what the file is; None if nobody asks it."""

    def scan(self, path: Path) -> pl.LazyFrame:
        """The rows of a copy of it on this machine. CSV is text, so that all stays as it is."""
        if self.uri.endswith(".csv"):
            return pl.scan_csv(path, infer_schema=False, glob=False)
        if self.uri.endswith(".json"):
            return pl.scan_ndjson(path)
        return pl.scan_parquet(path, glob=False)

    def write(self, rows: pl.LazyFrame, path: Path) -> None:
        """Write these rows in the same format."""
        if self.uri.endswith(".csv"):
            rows.sink_csv(path)
        elif self.uri.endswith(".json"):
            rows.sink_ndjson(path)
        else:
            rows.sink_parquet(path)


def _list_tables(work: PersonalizeWork) -> Iterator[UserTable]:
    """The tables of users that there are."""
    keys = work.pipeline.keys
    tables: list[tuple[str, str, str, str | None]] = [
        ("interactions", keys.interactions, USER_ID, work.files.record_uri("interactions")),
        ("attributes of users", keys.users, USER_ID, work.files.record_uri("users")),
        ("users who get lists", keys.job_input("batch_inference"), USER_FIELD, None),
        ("segments", keys.user_segments, "user_id", None),
    ]
    for files in _open_lists(work):
        tables += [
            ("users who get lists", files.keys.users_of_list, USER_FIELD, None),
            ("users without lists", files.keys.all_users_without_lists, "user_id", None),
        ]
    yield from _find_tables(work, tables)


def _list_users_of_sinks(work: PersonalizeWork) -> Iterator[UserTable]:
    """The tables of the users that sinks have written, to know who is gone."""
    folders = [files.keys.all_users_in_dynamodb for files in _open_lists(work)]
    yield from _find_tables(
        work, [("users in DynamoDB", folder, "user_id", None) for folder in folders]
    )


def _find_tables(
    work: PersonalizeWork, tables: Sequence[tuple[str, str, str, str | None]]
) -> Iterator[UserTable]:
    """The tables that there are, of these names, keys or folders, columns and records."""
    for name, prefix, column, record in dict.fromkeys(tables):
        for info in work.storage.store.list(work.files.uri(prefix)):
            # Another program may have put a file of its own there.
            if info.uri.endswith((".csv", ".json", ".parquet")):
                yield UserTable(name, info.uri, column, record)


def _count_rows_of(work: PersonalizeWork, table: UserTable, ids: pl.Series) -> tuple[int, int]:
    """How many rows of the table are of these people, and how many it has."""
    with work.storage.local_file(table.uri) as path:
        counts = table.scan(path).select(_is_in(table.column, ids).sum(), pl.len().alias("rows"))
        return counts.collect(engine="streaming").row(0)


def _count_table_rows(work: PersonalizeWork, ids: pl.Series) -> Iterator[Trace]:
    """The rows of these people, for each kind of table."""
    numbers: dict[str, int] = {}
    for table in [*_list_tables(work), *_list_users_of_sinks(work)]:
        number, _ = _count_rows_of(work, table, ids)
        numbers[table.name] = numbers.get(table.name, 0) + number
    for name, number in numbers.items():
        yield Trace(name, number, "rows", "rows removed")


def _erase_from_table(work: PersonalizeWork, table: UserTable, ids: pl.Series) -> None:
    """Remove the people's rows. A table of which nothing is left is deleted."""
    store = work.storage.store
    number, rows = _count_rows_of(work, table, ids)
    if number and number == rows:
        store.delete(table.uri)
    elif number:
        with work.storage.local_file(table.uri) as path, temporary_folder() as folder:
            new_path = folder / "table"
            table.write(table.scan(path).filter(~_is_in(table.column, ids)), new_path)
            file = put_file(store, table.uri, new_path)
        record = load(store, table.record, AnyPreparedRecord) if table.record else None
        if table.record and record is not None:
            new = {"file": file, "version": file.version}
            save(store, table.record, record.model_copy(update=new))


def _count_rows(editions: Editions, edition: Edition, ids: pl.Series) -> int:
    """How many rows of the edition are of these people."""
    try:
        rows = editions.read_rows(edition).filter(_is_in("user_id", ids)).select(pl.len())
        return int(rows.collect(engine="streaming").item())
    except DamagedObjectError:
        # It is deleted if it is not live, and otherwise erasing says what to do.
        return 0


def erase_from_editions(editions: Editions, ids: pl.Series) -> None:
    """Remove the people's rows. The number and the version of an edition stay.

    A kept edition that is damaged is deleted: nobody can go back to it, or read it.
    """
    kept = editions.kept()
    readable = {edition.uri for edition in kept}
    for info in editions.store.list(editions.history):
        if info.uri not in readable:
            editions.store.delete(info.uri)
    for edition in kept:
        try:
            drop_users(editions, edition, ids)
        except DamagedObjectError:
            editions.store.delete(edition.uri)
    live = editions.live()
    if live is not None:
        drop_users(editions, live, ids)


def _make_sink_context(work: PersonalizeWork, files: ListFiles) -> SinkContext:
    address = files.keys.address
    return SinkContext(address, work.storage, work.pipeline.project, os.environ)


def _write_sinks(
    work: PersonalizeWork, files: ListFiles, sink_owners: Mapping[str, str]
) -> list[str]:
    """Write the live lists again wherever they were written, and return what remains there."""
    if files.editions.live() is None:
        return []
    _, lists = files.editions.read()
    results = write_sinks_again(lists, _make_sink_context(work, files), sink_owners)
    return [result.remains for result in results if result.remains]


def _find_dataset_groups(work: PersonalizeWork) -> list[str]:
    return find_dataset_groups(work.ensure, work.pipeline.name)


def _erase_from_personalize(work: PersonalizeWork, people: Collection[str]) -> Iterator[str]:
    """Erase the people from the datasets and models, and yield what remains.

    The jobs are named after the hashed ids, so that another call for the same people finds them.
    """
    salt = read_erased_users(work.files).salt
    request = ErasedUsers(salt).add(people).version
    assert request is not None, "there are people"
    results = erase_users_from_groups(
        work.ensure,
        work.storage.store,
        work.files.uri(work.pipeline.keys.erasure_inputs),
        _find_dataset_groups(work),
        people,
        request=request,
    )
    for result in results:
        if result.overlapping_work:
            yield (
                f"{', '.join(result.overlapping_work)} started while Personalize erased, so its"
                f" models may have something of these people until the next training."
            )
