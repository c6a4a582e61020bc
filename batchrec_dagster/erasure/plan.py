"""Puts the places together, and erases from one after the other."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import dagster as dg

from batchrec_dagster.config import PublishedList
from batchrec_dagster.erasure.job_outputs import JobOutputLines
from batchrec_dagster.erasure.locks import hold_locks
from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.personalize_data import REMAINS_ON_AWS, PersonalizeData
from batchrec_dagster.erasure.place import Amount, Place
from batchrec_dagster.erasure.published_lists import PublishedEditions
from batchrec_dagster.erasure.receipt import Receipt
from batchrec_dagster.erasure.rows import BatchUserLines, ParquetRows, make_imported_places
from batchrec_dagster.erasure.sinks import SinkPlaces
from batchrec_dagster.erasure.unfinished import UnfinishedErasure, count_unfinished
from batchrec_dagster.erasure.whole_files import WholeFiles, make_folder_place
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.prices import summarize_costs
from batchrec_dagster.pipeline.automation.runs import describe_runs_under_way
from batchrec_dagster.sinks import SinkContext
from batchrec_dagster.steps.cost import estimate_results, estimate_trainings
from batchrec_dagster.steps.work import PersonalizeWork, list_removed_lists
from batchrec_dagster.storage.erased import add_erased_users, read_erased_users
from batchrec_dagster.storage.layout import ListFiles, ListKeys

REMAINS_IN_S3 = (
    "If the bucket keeps versions, earlier versions of the objects stay until its lifecycle rule"
    " deletes them."
)


@dataclass(frozen=True, eq=False)
class PlannedPlace:
    """A place, and how much it has of the people."""

    pipeline: str
    """The pipeline's name; empty for what all pipelines share."""
    place: Place
    amount: Amount

    @property
    def title(self) -> str:
        """The pipeline and the place."""
        return f"{self.pipeline}: {self.place.name}" if self.pipeline else self.place.name


@dataclass(frozen=True)
class Erasure:
    """The erasure of people from pipelines."""

    people: People
    pipelines: Sequence[PersonalizeWork]
    instance: dg.DagsterInstance
    log: logging.Logger

    @cached_property
    def plan(self) -> list[PlannedPlace]:
        """How much there is of the people in each place. It is counted once."""
        return [
            PlannedPlace(pipeline, place, place.count(self.people))
            for pipeline, place in self._list_places()
        ]

    @property
    def is_found(self) -> bool:
        """Whether any place has one of the people, as far as it can be counted."""
        return any(part.amount.number for part in self.plan if part.amount.is_of_people)

    def count_unfinished(self, work: PersonalizeWork) -> int:
        """How many erasures of other people from this pipeline have not ended."""
        number = count_unfinished(work.files)
        if number and UnfinishedErasure.of(work.files, self.people).find() is not None:
            number -= 1
        return number

    def require_no_runs(self, assets: Mapping[str, Collection[dg.AssetKey]]) -> None:
        """Raise UserError if a run of one of the pipelines is under way.

        assets: the keys of each pipeline's assets.
        """
        running = [
            line
            for work in self.pipelines
            for line in describe_runs_under_way(
                work.pipeline, assets[work.pipeline.name], self.instance
            )
        ]
        if running:
            raise UserError(
                f"nothing was erased: {'; '.join(running)}, and could write again what is erased."
                " Wait until it ends, or stop it, and run batchrec forget again"
            )

    def run(self) -> list[Receipt]:
        """Erase, and return the stored receipts of the pipelines.

        After a kill, another call with the same people continues.
        Raises UserError, and what the places raise.
        """
        with ExitStack() as locks:
            owner = f"forget-{uuid.uuid4().hex[:8]}"
            for work in self.pipelines:
                hold_locks(locks, work, owner)
            # Before the first erasure, so that nothing brings the people back.
            for work in self.pipelines:
                add_erased_users(work.files, self.people.ids)
                UnfinishedErasure.of(work.files, self.people).start(
                    {part.place.name: part.amount.number for part in self._list_parts(work)}
                )
            numbers = {}
            for part in self.plan:
                numbers[part] = part.place.erase(self.people)
                self.log.info(f"{part.title}: done")
            self._require_erased()
            return [self._end(work, numbers) for work in self.pipelines]

    def _list_parts(self, work: PersonalizeWork) -> list[PlannedPlace]:
        """The pipeline's places, and those that all pipelines share."""
        return [part for part in self.plan if part.pipeline in ("", work.pipeline.name)]

    def _require_erased(self) -> None:
        """Raise UserError if a place still has one of the people."""
        for part in self.plan:
            amount = part.place.count(self.people)
            if amount.is_of_people and amount.number:
                raise UserError(
                    f"{part.title}: there still are {amount}, because something writes there. Stop"
                    " it, and run batchrec forget again with the same ids"
                )

    def _end(self, work: PersonalizeWork, numbers: Mapping[PlannedPlace, int]) -> Receipt:
        """Write the receipt for the pipeline, and delete the record of the unfinished erasure.

        numbers: how much this call erased from each place. An earlier call that was killed may have
            erased the rest of what there was at its start.
        """
        unfinished = UnfinishedErasure.of(work.files, self.people)
        erasure = unfinished.read()
        amounts = {}
        for part in self._list_parts(work):
            number = max(numbers[part], erasure.amounts.get(part.place.name, 0))
            amounts[part.place.name] = str(replace(part.amount, number=number))
        receipt = Receipt(
            work.pipeline.name,
            erasure.started_at,
            datetime.now(UTC).isoformat(timespec="seconds"),
            len(self.people),
            amounts,
            len(read_erased_users(work.files)),
            tuple(describe_remains(work)),
        )
        receipt.write(work.files)
        unfinished.end()
        return receipt

    def _list_places(self) -> Iterator[tuple[str, Place]]:
        """The places of each pipeline, and those that all of them share."""
        caches = {Path(work.storage.cache).absolute() for work in self.pipelines}
        for work in self.pipelines:
            for place in list_pipeline_places(work):
                yield work.pipeline.name, place
        for cache in sorted(caches):
            if cache.is_dir():
                yield "", make_folder_place("downloads", "deleted; downloaded again", cache)


def list_pipeline_places(work: PersonalizeWork) -> list[Place]:
    """The places of a pipeline, in the order in which they are erased from.

    First come those that others are made from, and then those that people see.
    """
    files, storage, keys = work.files, work.storage, work.pipeline.keys
    store = storage.store

    def whole_files(
        name: str, consequence: str, *prefixes: str, exceptions: Sequence[str] = ()
    ) -> Place:
        uris = [files.uri(prefix) for prefix in prefixes]
        return WholeFiles(name, consequence, store, uris, [*map(files.uri, exceptions)])

    return [
        whole_files(
            "copies of ratings",
            "deleted; the next refresh copies the source again, and leaves these people out",
            keys.raw("ratings"),
        ),
        whole_files(
            "copies of users",
            "deleted; the next refresh copies the source again, and leaves these people out",
            keys.raw("users"),
        ),
        whole_files("unfinished work of Spark", "deleted", keys.work),
        *make_imported_places(files, trains_again=trains_with_next_refresh(work)),
        BatchUserLines(ListFiles(storage, ListKeys(work.pipeline.name))),
        JobOutputLines(files),
        PersonalizeData(work),
        ParquetRows("segments", storage, files.uri(keys.user_segments)),
        *(place for places in _list_lists(work) for place in places),
    ]


def _list_lists(work: PersonalizeWork) -> Iterator[list[Place]]:
    """The places of each list: of those declared, and of those that were removed."""
    declared = {published.address: published for published in work.pipeline.user_lists}
    removed = [f"{work.pipeline.name}/{name}" for name in list_removed_lists(work)]
    # The list of the pipeline itself, from before it had several.
    addresses = dict.fromkeys([work.pipeline.name, *declared, *removed])
    for address in addresses:
        keys = ListKeys(address)
        yield _list_places_of_list(work, keys, declared.get(address))


def _list_places_of_list(
    work: PersonalizeWork, keys: ListKeys, published: PublishedList | None
) -> list[Place]:
    """The places of a list.

    keys: those of its files.
    published: its declaration; None if it is not declared.
    """
    files = ListFiles(work.storage, keys)
    storage, store = files.storage, files.storage.store
    of_list = f" of {keys.name}" if keys.name else ""

    def whole_files(
        name: str, consequence: str, *prefixes: str, exceptions: Sequence[str] = ()
    ) -> Place:
        uris = [files.uri(prefix) for prefix in prefixes]
        return WholeFiles(name + of_list, consequence, store, uris, [*map(files.uri, exceptions)])

    context = SinkContext(keys.address, storage, work.pipeline.project, os.environ)
    return [
        *([BatchUserLines(files, f"users who get lists{of_list}")] if of_list else []),
        SinkPlaces(files.editions, context, of_list),
        PublishedEditions(files.editions, is_live=False, of_list=of_list),
        PublishedEditions(files.editions, is_live=True, of_list=of_list),
        ParquetRows(
            f"users without lists{of_list}", storage, files.uri(keys.all_users_without_lists)
        ),
        ParquetRows(f"users in DynamoDB{of_list}", storage, files.uri(keys.all_users_in_dynamodb)),
        whole_files(
            "report",
            "deleted; the next refresh writes it again",
            keys.report,
            keys.list_record("report_tallies"),
        ),
    ]


def describe_remains(work: PersonalizeWork) -> Iterator[str]:
    """Sentences on what is left somewhere, and when it goes."""
    if work.ensure.on_aws:
        yield REMAINS_ON_AWS
    if work.storage.in_s3:
        yield REMAINS_IN_S3


def trains_with_next_refresh(work: PersonalizeWork) -> bool:
    """Whether the next refresh trains a model because the data have changed."""
    return work.pipeline.solution.retrain.every_days is None


def estimate_next_refresh(work: PersonalizeWork) -> str:
    """What the next refresh costs on AWS, in words, besides the import."""
    costs = estimate_results(work)
    if trains_with_next_refresh(work):
        costs = [*estimate_trainings(work, [work.pipeline.solution.recipe]), *costs]
    return summarize_costs(costs)
