"""Erasure of people from everything that batchrec keeps of a pipeline.

First, the people are added to the list of erased users, so that no later run brings them back.
Files that the next refresh makes again are deleted whole: copies of sources, outputs of jobs and
reports. Tables of users and editions of lists lose only the rows of the people, so that a
rollback still works. Sinks are written again from the live lists. After a kill, the erasure can be
started again and finishes the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config import Pipeline
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.data_deletion import erase_users_from_groups, find_dataset_groups
from batchrec_dagster.personalize.prices import summarize_costs
from batchrec_dagster.sinks import SinkContext
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.lists.sinks import count_sinks, write_sinks_again
from batchrec_dagster.steps.lists.user_rows import (
    count_edition_rows,
    count_table_rows,
    erase_from_editions,
    erase_from_table,
    find_lists_of_users,
    list_tables,
    list_users_of_sinks,
)
from batchrec_dagster.steps.locks import LOCK_SECONDS, hold_locks
from batchrec_dagster.steps.model.cost import estimate_results, estimate_trainings
from batchrec_dagster.storage.erased import ErasedUsers, add_erased_users, read_erased_users
from batchrec_dagster.storage.layout import PipelineKeys
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
    """The data about the people that a pipeline has in one kind of place."""

    name: str
    number: int
    unit: str
    """The unit of the number, in the plural, such as rows."""
    consequence: str
    """A text on the effect of the erasure on this data."""
    is_of_people: bool = True
    """Whether all counted data belong to the people; if not, the data may mention the people."""

    @property
    def amount(self) -> str:
        """The number with its unit."""
        return f"{self.number:,} {self.unit.removesuffix('s') if self.number == 1 else self.unit}"


class Receipt(BaseModel, frozen=True):
    """The stored report of an erasure from one pipeline. It has no user ids."""

    pipeline: str
    started_at: datetime
    ended_at: datetime
    people: int
    """The number of ids that were given."""
    rows: int
    """The number of erased rows."""
    erased: dict[str, str]
    """The amount of data found and the effect of the erasure, by the name of the place."""
    left_out: int
    """The number of people whom the pipeline leaves out after this and all earlier erasures."""
    remains: tuple[str, ...] = ()
    """Sentences on data that still exist somewhere, and on when they are deleted."""
    batchrec: str = version("batchrec-dagster")
    """The version of batchrec that erased the people."""

    @property
    def key(self) -> str:
        """The receipt's key in the storage."""
        return (
            f"{PipelineKeys(self.pipeline).erasure_receipts}{self.ended_at:%Y-%m-%dT%H%M%SZ}.json"
        )


def find_traces(step: StepContext, people: Collection[str]) -> list[Trace]:
    """Find the pipeline's data about the people, place by place."""
    ids = _make_series(people)
    traces = [
        *(
            Trace(name, number, "rows", "rows removed")
            for name, number in count_table_rows(step, ids).items()
        ),
        Trace(
            "copied and intermediate files, reports",
            len([*_list_files_made_again(step)]),
            "files",
            "deleted; the next refresh makes them again",
            is_of_people=False,
        ),
        Trace(
            "Personalize",
            len(find_dataset_groups(step.resources, step.pipeline.name)),
            "dataset groups",
            "a data deletion job for each dataset group, of up to a day"
            if step.resources.on_aws
            else "datasets and models without them",
            is_of_people=False,
        ),
    ]
    for files in find_lists_of_users(step):
        of_list = f" of {files.keys.name}" if files.keys.name else ""
        rows = count_edition_rows(files.editions, ids)
        traces.append(
            Trace(f"published lists{of_list}", rows, "rows", "rows removed; the editions stay")
        )
        sinks = count_sinks(_make_sink_context(step, files))
        traces.append(
            Trace(f"sinks{of_list}", sinks, "places", "written again", is_of_people=False)
        )
    return traces


def erase(
    step: StepContext,
    people: Collection[str],
    sink_owners: Mapping[str, str],
    log: logging.Logger,
) -> Receipt:
    """Erase the people from the pipeline, and return the stored receipt.

    If an erasure was killed, another call with the same people finishes it.

    sink_owners: for each place that is declared as a sink, the address of the list that declares
        the sink.
    Raises UserError.
    """
    started_at = datetime.now(UTC)
    store, ids = step.storage.store, _make_series(people)
    with ExitStack() as locks:
        hold_locks(locks, step)
        traces = find_traces(step, people)
        erased = add_erased_users(step.files, people)
        for uri in [*_list_files_made_again(step)]:
            store.delete(uri)
        log.info(f"{step.pipeline.name}: deleted what the next refresh makes again")
        remains = [*describe_remains(step), *_erase_from_personalize(step, people)]
        log.info(f"{step.pipeline.name}: erased from Personalize")
        for files in find_lists_of_users(step):
            erase_from_editions(files.editions, ids)
        for table in list_tables(step):
            erase_from_table(step, table, ids)
        log.info(f"{step.pipeline.name}: erased from tables and published lists")
        # Sinks come last, because a place that cannot be reached ends the erasure.
        for files in find_lists_of_users(step):
            remains += _write_sinks(step, files, sink_owners)
        # The DynamoDB sink remembers the users that it wrote, to delete users who left the lists.
        # So the tables of remembered users lose the people only after the sink was written.
        for table in list_users_of_sinks(step):
            erase_from_table(step, table, ids)
        _clear_cache(step)
        log.info(f"{step.pipeline.name}: wrote the sinks again")
        for trace in find_traces(step, people):
            if trace.is_of_people and trace.number:
                raise UserError(
                    f"{step.pipeline.name}: {trace.name}: there still are {trace.amount}, because"
                    " something writes there. Stop it, and run batchrec forget again with the same"
                    " ids"
                )
        receipt = Receipt(
            pipeline=step.pipeline.name,
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
        save(store, step.files.uri(receipt.key), receipt)
    return receipt


def describe_remains(step: StepContext) -> Iterator[str]:
    """Yield sentences on data that an erasure leaves in AWS, and on when they are deleted."""
    if step.resources.on_aws:
        yield REMAINS_ON_AWS
    if step.storage.in_s3:
        yield REMAINS_IN_S3


def estimate_next_refresh(step: StepContext) -> str:
    """Return in words the cost of the next refresh on AWS, without its import.

    The training is left out if the pipeline sets solution.retrain.every_days.
    """
    costs = estimate_results(step)
    if step.pipeline.solution.retrain.every_days is None:
        costs = [*estimate_trainings(step, [step.pipeline.solution.recipe]), *costs]
    return summarize_costs(costs)


def find_sink_owners(pipelines: Collection[Pipeline]) -> dict[str, str]:
    """Return the address of the list that declares a sink, by the sink's place."""
    return {
        place: published.address
        for pipeline in pipelines
        for published in pipeline.published_lists()
        for sink in published.sinks.declared.values()
        if (place := sink.describe(pipeline.project).place)
    }


def _make_series(people: Collection[str]) -> pl.Series:
    return pl.Series("user_id", sorted(people), pl.String)


def _list_files_made_again(step: StepContext) -> Iterator[str]:
    """Yield the URIs of files that may mention people and that the next refresh makes again."""
    keys = step.pipeline.keys
    prefixes = [
        keys.raw("ratings"),
        keys.raw("users"),
        keys.job_output("batch_inference"),
        keys.job_output("batch_segments"),
        keys.work,
    ]
    for files in find_lists_of_users(step):
        prefixes += [
            files.keys.all_arm_users,
            f"{files.keys.report.rpartition('/')[0]}/",
        ]
    for prefix in dict.fromkeys(prefixes):
        for info in step.storage.store.list(step.files.uri(prefix)):
            yield info.uri


def _make_sink_context(step: StepContext, files: ListFiles) -> SinkContext:
    return SinkContext(files.keys.address, step.storage, step.pipeline.project)


def _write_sinks(step: StepContext, files: ListFiles, sink_owners: Mapping[str, str]) -> list[str]:
    """Write the live lists to their sinks again, and return sentences on remaining data."""
    context = _make_sink_context(step, files)
    if not count_sinks(context):
        return []
    if files.editions.live() is None:
        records = step.storage.where(files.uri(files.keys.sink_record()))
        raise UserError(
            f"{context.address} has no published lists from which its sinks could be written again:"
            f" run the refresh, or, if nobody reads them any more, delete {records}. Then run"
            " batchrec forget again with the same ids"
        )
    _, lists = files.editions.read()
    results = write_sinks_again(lists, context, sink_owners)
    return [result.remains for result in results if result.remains]


def _clear_cache(step: StepContext) -> None:
    """Remove downloads of sources and copies of objects, once no other run reads them.

    The pipelines of a deployment share the cache. Raises UserError if a file stays open.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while open_files := step.storage.clear_cache():
        if time.monotonic() > deadline:
            raise UserError(
                f"{step.pipeline.name}: {open_files[0]} may have rows of these people, and another"
                " process is reading it. Wait until that process ends, and run batchrec forget"
                " again with the same ids"
            )
        time.sleep(min(1, step.resources.poll_seconds))


def _erase_from_personalize(step: StepContext, people: Collection[str]) -> Iterator[str]:
    """Erase the people from the datasets and models, and yield sentences on remaining data.

    The deletion jobs are named after the hashed ids, so that another call for the same people
    finds these jobs.
    """
    salt = read_erased_users(step.files).salt
    request = ErasedUsers(salt).add(people).version
    assert request is not None, "there are people"
    overlapping_work = erase_users_from_groups(
        step.resources,
        step.storage.store,
        step.files.uri(step.pipeline.keys.erasure_inputs),
        find_dataset_groups(step.resources, step.pipeline.name),
        people,
        request=request,
    )
    if overlapping_work:
        yield (
            f"{', '.join(overlapping_work)} started while Personalize erased, so its models may"
            " have something of these people until the next training."
        )
