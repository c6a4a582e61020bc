"""Erases people from everything that batchrec keeps of a pipeline.

First they are put on the list of erased users, so that nothing brings them back. What nobody needs
until the next refresh makes it again is deleted, whoever is in it: copies of sources, outputs of
jobs, reports. Tables of users and editions of lists stay, without these people's rows, so that a
rollback still works. Sinks are written again from the live lists. An erasure that was killed is
started again, and finds less to do.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.data_deletion import erase_users_from_groups, find_dataset_groups
from batchrec_dagster.personalize.prices import summarize_costs
from batchrec_dagster.sinks import SinkContext
from batchrec_dagster.steps.cost import estimate_results, estimate_trainings
from batchrec_dagster.steps.locks import hold_locks
from batchrec_dagster.steps.sinks import count_sinks, write_sinks_again
from batchrec_dagster.steps.user_rows import (
    count_edition_rows,
    count_table_rows,
    erase_from_editions,
    erase_from_table,
    find_lists_of_users,
    list_tables,
    list_users_of_sinks,
)
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.erased import ErasedUsers, add_erased_users, read_erased_users
from batchrec_dagster.storage.layout import ListFiles, PipelineKeys
from batchrec_dagster.storage.records import save

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
    """How many people were erased from a pipeline, when, and what was done, without ids."""

    pipeline: str
    started_at: datetime
    ended_at: datetime
    people: int
    """How many ids were named."""
    rows: int
    """How many rows of these people were erased."""
    erased: dict[str, str]
    """How much there was and what became of it, by the name of the place."""
    left_out: int
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
        *(
            Trace(name, number, "rows", "rows removed")
            for name, number in count_table_rows(work, ids).items()
        ),
        Trace(
            "copied and intermediate files, reports",
            len([*_list_files_made_again(work)]),
            "files",
            "deleted; the next refresh makes them again",
            is_of_people=False,
        ),
        Trace(
            "Personalize",
            len(find_dataset_groups(work.ensure, work.pipeline.name)),
            "dataset groups",
            "a data deletion job for each dataset group, of up to a day"
            if work.ensure.on_aws
            else "datasets and models without them",
            is_of_people=False,
        ),
    ]
    for files in find_lists_of_users(work):
        of_list = f" of {files.keys.name}" if files.keys.name else ""
        rows = count_edition_rows(files.editions, ids)
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
        log.info(f"{work.pipeline.name}: deleted what the next refresh makes again")
        remains = [*describe_remains(work), *_erase_from_personalize(work, people)]
        log.info(f"{work.pipeline.name}: erased from Personalize")
        for files in find_lists_of_users(work):
            erase_from_editions(files.editions, ids)
        for table in list_tables(work):
            erase_from_table(work, table, ids)
        log.info(f"{work.pipeline.name}: erased from tables and published lists")
        # Last, because a place that cannot be reached ends the erasure.
        for files in find_lists_of_users(work):
            remains += _write_sinks(work, files, sink_owners)
        # DynamoDB's sink deletes from its table whom it has written, and is no more in the lists.
        for table in list_users_of_sinks(work):
            erase_from_table(work, table, ids)
        # Downloads of sources, and copies of objects in S3 that were read until now.
        shutil.rmtree(work.storage.cache, ignore_errors=True)
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
            rows=sum(trace.number for trace in traces if trace.is_of_people),
            erased={
                trace.name: f"{trace.amount} ({trace.consequence})"
                for trace in traces
                if trace.number
            },
            left_out=len(erased),
            remains=tuple(remains),
        )
        save(store, work.files.uri(receipt.key), receipt)
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


def _list_files_made_again(work: PersonalizeWork) -> Iterator[str]:
    """The URIs of files that the next refresh makes again, and that may have people in them."""
    keys = work.pipeline.keys
    prefixes = [
        keys.raw("ratings"),
        keys.raw("users"),
        keys.job_output("batch_inference"),
        keys.job_output("batch_segments"),
        keys.work,
    ]
    for files in find_lists_of_users(work):
        prefixes += [
            files.keys.all_arm_users,
            f"{files.keys.report.rpartition('/')[0]}/",
        ]
    for prefix in dict.fromkeys(prefixes):
        for info in work.storage.store.list(work.files.uri(prefix)):
            yield info.uri


def _make_sink_context(work: PersonalizeWork, files: ListFiles) -> SinkContext:
    return SinkContext(files.keys.address, work.storage, work.pipeline.project)


def _write_sinks(
    work: PersonalizeWork, files: ListFiles, sink_owners: Mapping[str, str]
) -> list[str]:
    """Write the live lists again wherever they were written, and return what remains there."""
    context = _make_sink_context(work, files)
    if not count_sinks(context):
        return []
    if files.editions.live() is None:
        records = work.storage.where(files.uri(files.keys.sink_record()))
        raise UserError(
            f"{context.address} has no published lists from which its sinks could be written again:"
            f" run the refresh, or, if nobody reads them any more, delete {records}. Then run"
            " batchrec forget again with the same ids"
        )
    _, lists = files.editions.read()
    results = write_sinks_again(lists, context, sink_owners)
    return [result.remains for result in results if result.remains]


def _erase_from_personalize(work: PersonalizeWork, people: Collection[str]) -> Iterator[str]:
    """Erase the people from the datasets and models, and yield what remains.

    The jobs are named after the hashed ids, so that another call for the same people finds them.
    """
    salt = read_erased_users(work.files).salt
    request = ErasedUsers(salt).add(people).version
    assert request is not None, "there are people"
    overlapping_work = erase_users_from_groups(
        work.ensure,
        work.storage.store,
        work.files.uri(work.pipeline.keys.erasure_inputs),
        find_dataset_groups(work.ensure, work.pipeline.name),
        people,
        request=request,
    )
    if overlapping_work:
        yield (
            f"{', '.join(overlapping_work)} started while Personalize erased, so its models may"
            " have something of these people until the next training."
        )
