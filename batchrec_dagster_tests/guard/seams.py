"""The calls by which the guard enters batchrec where a whole run would cost too much.

Each function has the signature that the rooms are to have when they are written anew, over the code
as it is. Tests of the guard import batchrec's internal modules nowhere else: when a room is written
anew, this module alone changes.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from click import UsageError
from pydantic import ValidationError

from batchrec_dagster import sinks
from batchrec_dagster.cli.recognise_ratings import recognise_ratings
from batchrec_dagster.cli.recognised_source import ReadingOptions
from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.batch_users import BatchUsers
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.config.gate import Gate
from batchrec_dagster.config.items import ItemSettings
from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.config.users import UserSettings
from batchrec_dagster.deployment import resources
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.published_lists import PublishedEditions
from batchrec_dagster.explanations.list_reasons import ListReasons
from batchrec_dagster.local_personalize import recipes
from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster.local_personalize.learning.interactions import (
    Interactions as TrainingInteractions,
)
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.serving import UserModel
from batchrec_dagster.outcomes import arms
from batchrec_dagster.outcomes.measured_popularity import MeasuredPopularity
from batchrec_dagster.personalize import resource_kinds
from batchrec_dagster.personalize.data_deletion import erase_users_from_groups, find_dataset_groups
from batchrec_dagster.personalize.ensure import (
    PIPELINE_TAG,
    STORAGE_TAG,
    Ensure,
    StartedResource,
)
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.evidence import NDCG, Evidence, MetricEstimate
from batchrec_dagster.personalize.file_formats import read_inference
from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.personalize.resource_kinds import ResourceKind
from batchrec_dagster.pipeline.automation import list_alerts
from batchrec_dagster.preparation.items import parse_items
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile as DecodedFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.rules import PreparationResult
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.source import RatingsSource, SourceContext
from batchrec_dagster.preparation.spark.task import SourceFile, SparkTask
from batchrec_dagster.preparation.user_attributes import parse_user_attributes
from batchrec_dagster.preparation.users import read_users
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.reporting.markdown import escape as escape_markdown
from batchrec_dagster.reporting.markdown import format_table as format_markdown_table
from batchrec_dagster.reporting.terminal import escape_invisible
from batchrec_dagster.reporting.verdict import PreviousEdition, VerdictFacts, judge_edition
from batchrec_dagster.rules import conditions
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.prepared import PreparedRules
from batchrec_dagster.rules.settings import ExcludeSeen, ListRules
from batchrec_dagster.samples import generator
from batchrec_dagster.sinks import SinkError, SinkUnavailableError
from batchrec_dagster.steps import bought_together, popular_items, shared_jobs, training
from batchrec_dagster.steps import publishing as publishing_module
from batchrec_dagster.steps.checks import (
    FailedChecksError,
    ModelToPublish,
    check_quality_gate,
    require_passed,
)
from batchrec_dagster.steps.data_sizes import DataSize, check_not_shrunk
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.list_builder import ListBuilder, ListInputs
from batchrec_dagster.steps.lists_declaration import describe_lists
from batchrec_dagster.steps.outcomes import MeasuredOutcomes, measure_outcomes
from batchrec_dagster.steps.publishing import PREVIOUS, Publishing, remember_facts, republish
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.seen_items import SeenItems
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.hashed_users import NOBODY, SuppressedUsers
from batchrec_dagster.storage.lease import Lease
from batchrec_dagster.storage.object_store import (
    ObjectNotFoundError,
    ObjectStore,
)
from batchrec_dagster.storage.object_store import (
    StorageError as StorageError,
)
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.publications import Publications, Rollback
from batchrec_dagster.storage.published_table import Edition, PublishedTable, TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster_tests.guard.builders import Project, definitions
from batchrec_dagster_tests.guard.editions import complete_about

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from types_boto3_personalize import PersonalizeClient


# From a file to a row ----------------------------------------------------------------------------


class UserError(Exception):
    """What a person can act on: one line that says what happened, where, and what to do."""


@dataclass(frozen=True)
class RawFile:
    """A file of a source, as a run copies it."""

    name: str
    """Its name in the storage, which messages show."""
    version: str
    """What changes when the file does."""
    path: Path
    """The copy."""


@dataclass(frozen=True)
class Interactions:
    """What became of the rows of the ratings."""

    rows: list[tuple[str, str, int]]
    """The user, the item and the time in seconds of each row that was kept."""
    events: list[tuple[str, ...]]
    """The kind and the value of each, as far as the declaration names their columns."""
    rows_read: int
    left_out: dict[str, int]
    """How many rows were left out, by reason."""
    bad_rows: tuple[str, ...]
    """The first rows that cannot be read: file, line and reason."""
    warnings: tuple[str, ...]
    """What is said of how the files were read."""
    erased_users: int
    """How many users who were erased have rows."""


@dataclass(frozen=True)
class Attributes:
    """What became of the rows of a file of items or users."""

    metadata: pl.DataFrame
    """What Personalize gets of the good rows."""
    titles: pl.DataFrame
    """Of items: item_id, title, and where they are declared image and link."""
    rows_read: int
    left_out: dict[str, int]
    bad_rows: tuple[str, ...]


@contextmanager
def _user_errors() -> Iterator[None]:
    """Today's errors of the preparation, as what will be one class."""
    try:
        yield
    except (PreparationError, SourceError, StorageError, ValidationError) as error:
        raise UserError(str(error)) from error


def _open_sources(folder: Path) -> SourceContext:
    """Sources whose relative paths start in the folder. S3 is where the environment says."""
    store = ObjectStore({"raw": folder / "raw"}, endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"))
    return SourceContext(store, folder, folder / "cache", generator)


def _suppress(users: Collection[str]) -> SuppressedUsers:
    return NOBODY.add(users) if users else NOBODY


def declare(blocks: Mapping[str, Any]) -> None:
    """Check the blocks of a declaration. Raises UserError."""
    with _user_errors():
        Pipeline.model_validate({"name": "shop", **blocks})


def list_files(folder: Path, ratings: Mapping[str, Any]) -> dict[str, str]:
    """The name and the version of each file of the source, without a copy."""
    with _user_errors():
        rows = RatingsSettings.model_validate(ratings).rows
        return {file.filename: file.fingerprint for file in rows.files(_open_sources(folder))}


def copy_raw(
    folder: Path, ratings: Mapping[str, Any], meanwhile: Callable[[], object] = lambda: None
) -> list[RawFile]:
    """Copy the files of the source to the folder `raw` in the folder, in their order.

    ratings: the block of the YAML. meanwhile: happens between the list and the copies.
    """
    sources = _open_sources(folder)
    copies = []
    with _user_errors():
        listed_files = RatingsSettings.model_validate(ratings).rows.files(sources)
        meanwhile()
        for listed in listed_files:
            listed.file.copy(sources, f"s3://raw/{listed.filename}")
            path = folder / "raw" / listed.filename
            copies.append(RawFile(listed.filename, listed.fingerprint, path))
    return copies


@contextmanager
def _open_files(folder: Path, rows: RatingsSource) -> Iterator[list[DecodedFile]]:
    """The files of a source on this machine. Raises UserError."""
    sources = _open_sources(folder)
    with _user_errors(), ExitStack() as stack:
        yield [
            DecodedFile(stack.enter_context(listed.file.open_locally(sources)), listed.filename)
            for listed in rows.files(sources)
        ]


def prepare(
    folder: Path,
    blocks: Mapping[str, Any],
    *,
    erased: Collection[str] = (),
    spark: SparkSession | None = None,
) -> Interactions:
    """Read the ratings as a run does, and write interactions.csv into the folder.

    folder: where relative paths start. blocks: of the YAML, such as `ratings`, `interactions`.
    erased: the ids of users who were erased. spark: prepares instead of the engine for one machine.
    Raises UserError.
    """
    with _user_errors():
        pipeline = Pipeline.model_validate({"name": "shop", **blocks})
    target, suppressed = folder / "interactions.csv", _suppress(erased)
    result: PreparationResult
    with (
        _open_files(folder, pipeline.ratings.rows) as files,
        open_ratings(files, pipeline.ratings.reading, pipeline.rules, suppressed) as ratings,
    ):
        if spark is None:
            result = ratings.write_interactions(target)
        else:
            from batchrec_dagster.preparation.spark.prepare import run_task

            task = SparkTask(
                [SourceFile(f"file://{file.path}", file.name) for file in files],
                ratings.layout,
                pipeline.rules,
                f"file://{target}",
                f"file://{folder}/users.parquet",
                f"file://{folder}/work",
            )
            if suppressed:
                erased_file = folder / "erased.json"
                erased_file.write_text(json.dumps(suppressed.to_json()))
                task = replace(task, suppressed=f"file://{erased_file}")
            result = run_task(spark, task, logging.getLogger(__name__))
        warnings = tuple(ratings.recognised_layout.warnings)
    columns = pipeline.ratings.columns
    declared = {} if columns is None else columns.declared
    names = [name.upper() for name in ("event_type", "event_value") if name in declared]
    with target.open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    return Interactions(
        [(row["USER_ID"], row["ITEM_ID"], int(row["TIMESTAMP"])) for row in rows],
        [tuple(row[name] for name in names) for row in rows],
        result.rows_read,
        dict(result.left_out),
        tuple(result.bad_row_examples),
        warnings,
        result.erased_users,
    )


def recognise(folder: Path, source: str, columns: Mapping[str, str | int]) -> dict[str, Any]:
    """The block `ratings` that `batchrec new` writes for a file. Raises UserError.

    columns: those that its options give.
    """
    options = ReadingOptions(skip=True, whole=False)
    files = [DecodedFile(folder / source, source)]
    with _user_errors():
        try:
            return dict(recognise_ratings(source, files, columns, options).settings)
        except UsageError as error:
            raise UserError(error.message) from error


def prepare_items(folder: Path, items: Mapping[str, Any]) -> Attributes:
    """Read the file of items as a run does. items: the block of the YAML. Raises UserError."""
    with _user_errors():
        settings = ItemSettings.model_validate(items)
    with _open_files(folder, settings.rows) as (file,):
        read = parse_items(file, settings.layout)
    return Attributes(
        read.metadata, read.titles, read.rows, dict(read.bad.counts), tuple(read.bad.examples)
    )


def prepare_users(
    folder: Path, users: Mapping[str, Any], erased: Collection[str] = ()
) -> Attributes:
    """Read the file of users as a run does. users: the block of the YAML. Raises UserError."""
    with _user_errors():
        settings = UserSettings.model_validate(users)
    with _open_files(folder, settings.rows) as (file,):
        read = parse_user_attributes(file, settings.layout, _suppress(erased))
    bad = read.bad
    return Attributes(read.good, pl.DataFrame(), read.rows, dict(bad.counts), tuple(bad.examples))


def list_users(folder: Path, batch_users: Mapping[str, Any]) -> list[str]:
    """The users of a list of users. batch_users: the block of the YAML. Raises UserError."""
    with _user_errors():
        settings = BatchUsers.model_validate(batch_users)
    assert settings.rows is not None
    with _open_files(folder, settings.rows) as files:
        users = read_users(files, settings.column, header=settings.file_header)
    return users.to_series().to_list()


# Publishing: store, editions, sinks, erasure ------------------------------------------------------

Refused = FailedChecksError
NotFoundError = ObjectNotFoundError
NoEditionError = StepError


@dataclass(frozen=True)
class Store:
    """Objects by their keys below a root: a folder, or a bucket's prefix."""

    storage: StorageResource

    @classmethod
    def open(cls, root: Path | str, environment: Mapping[str, str] | None = None) -> Store:
        """The store at this root.

        environment: AWS's variables for a bucket, as `S3Server.environment` has them.
        """
        variables = environment or {}
        connection = S3Connection(
            endpoint_url=variables.get("AWS_ENDPOINT_URL_S3"),
            region_name=variables.get("AWS_DEFAULT_REGION"),
            aws_access_key_id=variables.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=variables.get("AWS_SECRET_ACCESS_KEY"),
        )
        return cls(StorageResource(root=str(root), s3=connection))

    def put(self, key: str, data: bytes | Path | Iterable[bytes]) -> None:
        """Write the object atomically. Raises StorageError."""
        self.storage.store.put(self.storage.uri(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless there is one; whether it was written."""
        return self.storage.store.create(self.storage.uri(key), data)

    def get(self, key: str) -> bytes:
        """The object. Raises NotFoundError and StorageError."""
        return self.storage.store.get(self.storage.uri(key))

    def list(self, prefix: str) -> list[str]:
        """The keys that start with exactly this prefix, in order."""
        root = self.storage.uri("")
        uris = [info.uri for info in self.storage.store.list(self.storage.uri(prefix))]
        return [uri.removeprefix(root) for uri in uris]

    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""
        self.storage.store.delete(self.storage.uri(key))

    @contextmanager
    def lock(
        self,
        step: str,
        owner: str,
        *,
        wait_seconds: float = 300,
        renew_seconds: float = 15,
        expires_seconds: float = 60,
    ) -> Iterator[None]:
        """Exclusive use of a step of the pipeline `shop`. Raises StorageError after the wait.

        expires_seconds: after how long without a renewal another process counts as dead.
        """
        lease = Lease(
            store=self.storage.store,
            folder=self.storage.uri(f"shop/leases/{step}/"),
            owner=owner,
            log=logging.getLogger("lock"),
            deadline_seconds=wait_seconds,
            renew_seconds=renew_seconds,
            expires_seconds=expires_seconds,
            poll_seconds=0.01,
        )
        with lease.hold():
            yield


LIST_COLUMNS = ["user_id", "rank", "item_id"]


@dataclass(frozen=True)
class PublishedEdition:
    """An edition of the lists of the pipeline `shop`."""

    number: int
    lists: pl.DataFrame
    """user_id, rank, item_id."""

    @property
    def users(self) -> set[str]:
        return {*self.lists.get_column("user_id")}


@dataclass(frozen=True)
class NightsWork:
    """What a night has made, and would publish."""

    model: str
    """What its model is called."""
    data: str
    """The version of its data."""
    lists: pl.DataFrame
    """user_id, rank, item_id."""
    time: datetime
    """When it becomes live."""
    data_until: int = 0
    """The time of its newest interaction, in epoch seconds."""
    ndcg: float = 0.2
    users_version: str = "users"
    """The version of the users who get lists."""


_SHOP_ATTRIBUTES: dict[str, Any] = {
    "name": "shop",
    "ratings": {"source": "ratings.csv"},
    "gate": {"max_drop": 1},
}


@dataclass(frozen=True)
class Editions:
    """The editions of the pipeline `shop`: the live one, and the newest that it replaced."""

    store: Store
    kept: int = 3
    """How many earlier editions are kept."""
    unfinished_runs: set[str] = field(default_factory=set)
    """The ids of runs that Dagster knows as failed or stopped."""

    def live(self) -> PublishedEdition | None:
        """What people have; None before the first publication."""
        try:
            edition, rows = self._table.read()
        except ObjectNotFoundError:
            return None
        return PublishedEdition(edition.number, rows.select(LIST_COLUMNS).collect())

    def older(self) -> list[PublishedEdition]:
        """The earlier editions that are kept, newest first."""
        return [self._read(edition) for edition in self._table.older()]

    def before(self) -> int | None:
        """The number of the edition that the live one is compared with, if it is kept."""
        live = self._table.current()
        baseline = None if live is None else EditionHistory(self._files).find_baseline(live)
        return None if baseline is None else baseline.number

    def nights(self) -> list[tuple[int, str, datetime | None]]:
        """The editions that became live, oldest first: the number, why, and since when."""
        reasons = {"published": "published", "rolled back": "rollback"}
        return [
            (past.edition, reasons.get(past.why, "by hand"), past.since)
            for past in Publications(self._files).read().publications
        ]

    def publish(self, night: NightsWork, *, anyway: bool = False) -> int:
        """Publish what the night has made, if the gate lets it pass; the number of its edition.

        Raises Refused.
        """
        model = ModelRecord(
            night.model,
            "group",
            "shop",
            night.data,
            metrics={NDCG: night.ndcg, "coverage": 0.2},
            evidence={
                "all/users": 200,
                "all/ndcg": night.ndcg,
                "all/popular": 0.06,
                "all/difference": night.ndcg - 0.06,
            },
        )
        run = f"run of {night.model}"
        facts = {
            "root_run": run,
            "run_cost_usd": 0.0,
            "data_until": night.data_until,
            "exclude_seen": False,
            "users": night.lists.get_column("user_id").n_unique(),
        }
        with _at(night.time), TemporaryDirectory() as folder:
            declared = describe_lists(self._pipeline)
            publishing = Publishing(self._work, declared, model, night.users_version)
            require_passed([publishing.gate(skip=anyway)])
            with TableWriter(Path(folder) / "lists.parquet") as writer:
                writer.write(night.lists.to_arrow())
                version = re.sub(r"\W", "_", f"{night.model}_{night.users_version}")
                writer.finish(publishing.about(version, run, [], facts))
            return publishing.publish(writer.path).number

    def roll_back(self, to: int | None = None, *, run: str, time: datetime) -> int:
        """Make an earlier edition live again, without users who are gone; its number.

        to: the number; None for what people had before.
        run: the id of the first of a run and its retries.
        Raises NoEditionError if there is none.
        """
        target = PREVIOUS if to is None else str(to)
        with _at(time):
            restoration = republish(self._work, target, run, self, logging.getLogger("rollback"))
        return restoration.edition.number

    def set_users(self, users: Iterable[str]) -> None:
        """Say who gets lists now."""
        lines = pl.DataFrame({"userId": sorted(users)}).write_ndjson()
        self.store.put("shop/transformed/batch_users_input/users.json", lines.encode())

    def set_interactions(self, interactions: pl.DataFrame) -> None:
        """Say what people did: USER_ID, ITEM_ID, TIMESTAMP."""
        key = "shop/transformed/interactions/interactions.csv"
        self.store.put(key, interactions.write_csv().encode())

    def erase(self, users: Iterable[str]) -> None:
        """Put these users on the list of the erased, and out of all editions."""
        people = People.of(users)
        SuppressionList(self._files).add(people.ids)
        for is_live in (False, True):
            PublishedEditions(self._table, is_live=is_live).erase(people)

    def lose_record(self) -> None:
        """Delete what is recorded of the publications beside the files of the lists."""
        self.store.delete("shop/records/publications.json")

    def count_interactions(self) -> dict[int, int]:
        """How many interactions count for each edition in the outcomes."""
        sums = measure_outcomes(self._work).sums
        return dict(sums.group_by("edition").agg(pl.col("interactions").sum()).rows())

    def is_unfinished(self, run_id: str) -> bool:
        """As Dagster's history of runs says it."""
        return run_id in self.unfinished_runs

    def has_ended(self, run_id: str) -> bool:
        """As Dagster's history of runs says it."""
        return True

    def _read(self, edition: Edition) -> PublishedEdition:
        lists = self._table.read_edition(edition).select(LIST_COLUMNS).collect()
        return PublishedEdition(edition.number, lists)

    @cached_property
    def _pipeline(self) -> Pipeline:
        retention = {"editions": self.kept}
        return Pipeline.model_validate({**_SHOP_ATTRIBUTES, "retention": retention})

    @cached_property
    def _work(self) -> Work:
        return Work(self._pipeline, self.store.storage)

    @property
    def _files(self) -> PipelineFiles:
        return self._work.files

    @property
    def _table(self) -> PublishedTable:
        return self._files.table


SinkFailedError = SinkError
SinkRetryError = SinkUnavailableError
"""Of a sink that may work a little later."""


@dataclass(frozen=True)
class Sink:
    """A sink as a pipeline declares it: `sinks: {KIND: SETTINGS}`."""

    kind: str
    settings: Mapping[str, Any]
    store: Store
    """The storage of the pipeline."""
    environment: Mapping[str, str] = field(default_factory=dict)
    project: Path = Path()
    """The folder at which relative paths start."""
    address: str = "shop"
    """The pipeline, or one of its lists, such as `shop/similar_items`."""

    def write(self, lists: pl.DataFrame, run_id: str = "run") -> tuple[int, int]:
        """Replace the lists in this place; how many rows and how many users were written.

        Raises SinkFailedError and SinkRetryError.
        """
        counts = self._sink.write(lists.lazy(), self._context(run_id)).counts
        return counts.rows, counts.users

    def check(self) -> str | None:
        """Try what writing needs, and leave nothing behind; what to do, if there is something.

        Raises SinkFailedError and SinkRetryError.
        """
        return self._sink.check(self._context("")).fix

    @property
    def _sink(self) -> sinks.Sink:
        blocks = {**_SHOP_ATTRIBUTES, "sinks": {self.kind: self.settings}}
        return Pipeline.model_validate(blocks).sinks.declared[self.kind]

    def _context(self, run_id: str) -> sinks.SinkContext:
        return sinks.SinkContext(
            self.address, self.store.storage, self.project, self.environment, run_id
        )


@contextmanager
def _at(time: datetime) -> Iterator[None]:
    """A block in which it is this time for what is published."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls.fromtimestamp(time.timestamp(), UTC)

    with patch.object(publishing_module, "datetime", Clock):
        yield


# Lists, rules, outcomes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RuleData:
    """What rules know of users and items when they are applied."""

    num_results: int
    """How many items a list has."""
    user_ids: Sequence[str]
    interactions: pl.DataFrame
    """USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE."""
    items: pl.DataFrame
    """ITEM_ID and the columns of the items."""
    users: pl.DataFrame
    """USER_ID and the columns of the users."""
    popular: Sequence[str] = ()
    """The popular items, the most popular first, which fill lists that are too short."""
    blocked: Sequence[str] = ()
    now: int = 0
    """The time of the newest interaction, in epoch seconds."""
    today: date = date(2026, 12, 24)
    """The day of the run."""


def apply_rules(
    candidates: Sequence[Mapping[str, Sequence[tuple[str, float | None]]]],
    rules: Mapping[str, Any],
    exclude_seen: Mapping[str, Any] | None,
    data: RuleData,
) -> pl.DataFrame:
    """The lists that rules make: user_id, rank, item_id, score and reason.

    candidates: the items of each user with their scores, best first, in pieces of users.
    rules, exclude_seen: as a pipeline's YAML has them.
    """
    declared = ListRules.model_validate(rules)
    seen = None if exclude_seen is None else ExcludeSeen.model_validate(exclude_seen)
    context = RuleContext(
        num_results=data.num_results,
        user_ids=pl.Series(data.user_ids, dtype=pl.String),
        interactions=data.interactions.lazy(),
        now=data.now,
        today=data.today,
        items=data.items,
        users=data.users,
        popular=pl.Series(data.popular, dtype=pl.String),
        blocked=pl.Series(data.blocked, dtype=pl.String) if declared.block else None,
        pinned=[pin.item for pin in declared.pin if pin.item is not None],
    )
    prepared = PreparedRules(declared, seen, context)
    lists = {"items": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    schema = pl.Schema({"user_id": pl.String(), **lists})
    pieces = []
    for piece in candidates:
        rows = [
            (user, [item for item, _ in items], [score for _, score in items])
            for user, items in piece.items()
        ]
        pieces.append(prepared.apply(pl.DataFrame(rows, schema=schema, orient="row")))
    return pl.concat(pieces)


def find_matches(condition: str, table: pl.DataFrame) -> list[bool]:
    """Which rows of the table meet a condition of a rule, such as `ITEMS.STOCK > 0`."""
    matches: list[bool] = conditions.find_matches(parse_condition(condition), table).to_list()
    return matches


@dataclass(frozen=True)
class MadeList:
    """A table of lists that a batch inference job's output became."""

    rows: pl.DataFrame
    """user_id, rank, item_id and score."""
    refused_by: Sequence[str]
    """The checks that keep it from being published."""
    warnings: Sequence[str]
    """The checks that only warn."""
    failed_users: Sequence[str]
    """Who has no list because Personalize returned an error."""


def make_list(
    lines: Sequence[str],
    users: Sequence[str],
    *,
    num_results: int,
    seen: Sequence[tuple[str, str]] | None = None,
    max_failed_share: float = 0.0,
    lines_at_once: int = 1_000,
) -> MadeList:
    """The lists that the lines of a batch inference job's output become.

    lines: JSON, as Personalize writes it.
    users: whom the job was asked for.
    seen: the users' items, which are left out; None leaves out none.
    lines_at_once: how many lines are read at once.
    """
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    everyone = pl.Series(users, dtype=pl.String)
    seen_items = None
    if seen is not None:
        seen_items = SeenItems(pl.LazyFrame(seen, schema=schema, orient="row"), everyone)
    inputs = ListInputs(num_results, seen_items, max_failed_share=max_failed_share)
    builder = ListBuilder(inputs)
    pieces = [
        read_inference("\n".join(lines[start : start + lines_at_once]).encode())
        for start in range(0, max(1, len(lines)), lines_at_once)
    ]
    with TemporaryDirectory() as folder:
        with TableWriter(Path(folder) / "lists.parquet") as writer:
            builder.write(pieces, writer)
        rows = pl.read_parquet(writer.path)
    built = builder.finish(everyone, filtered=False)
    return MadeList(
        rows,
        [check.name for check in built.checks if check.blocks],
        [check.name for check in built.checks if not (check.passed or check.blocks)],
        built.failed["user_id"].to_list(),
    )


def count_popular_items(
    interactions: pl.DataFrame,
    days: int,
    success: Sequence[str] = (),
    by: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """How many people had each item in the last days, the most popular first: ITEM_ID, popularity
    and, with `by`, group.

    by: the group of each user.
    """
    if by is None:
        return popular_items.count_popular_items(interactions.lazy(), days, success)
    users = pl.DataFrame({"USER_ID": [*by], "reason": [*by.values()]})
    counted = popular_items.count_popular_items_by_group(interactions.lazy(), users, days, success)
    return counted.select("ITEM_ID", "popularity", group="reason")


def find_bought_together(
    interactions: pl.DataFrame, *, within_days: int, num_results: int, events: Sequence[str] = ()
) -> pl.DataFrame:
    """What people had together with each item: item_id, similar_item_id and score, best first."""
    return bought_together.find_bought_together(
        interactions.lazy(), within_days=within_days, most=num_results, events=events or None
    )


def explain_lists(
    lists: pl.DataFrame, interactions: pl.DataFrame
) -> list[tuple[str | None, str | None]]:
    """The reason of each row, and the item of the person's own that speaks for it.

    lists: user_id, item_id and reason, which has what rules say already, or null.
    """
    users = lists["user_id"].unique().sort()
    reasons = ListReasons(interactions.lazy(), users)
    explained = reasons.explain(lists.select("user_id", "item_id"), lists["reason"])
    return [(reason, item) for reason, item in explained.iter_rows()]


@dataclass(frozen=True)
class Judgement:
    """What the gate says of a model."""

    is_refused: bool
    text: str


def judge_model(
    gate: Mapping[str, float],
    *,
    ndcg: float,
    coverage: float = 0.2,
    popular: float | None = None,
    recent_popular: float | None = None,
    published_ndcg: float | None = None,
    is_published: bool = False,
    is_comparable: bool = True,
    tested_users: int = 200,
    publish_anyway: bool = False,
) -> Judgement:
    """Whether a model's lists may be published.

    popular, recent_popular: the NDCG of the most popular items, of all time and of the last days.
    published_ndcg: that of the model whose lists are published; None if nothing is.
    is_published: whether that is the same model.
    is_comparable: whether it was measured on the same kind of interactions.
    """
    evidence: dict[str, float] = {"all/users": tested_users}
    if popular is not None:
        evidence["all/popular"] = popular
    recent = {}
    if recent_popular is not None:
        recent = MeasuredPopularity(30, tested_users, recent_popular, 0.01).to_json()
    metrics = {NDCG: ndcg, "coverage": coverage}
    model = ModelRecord(
        "arn:new",
        "arn:group",
        "group",
        "data",
        metrics=metrics,
        evidence=evidence,
        recent_popularity=recent,
    )
    published = None
    if published_ndcg is not None:
        published = {
            "solution_version_arn": "arn:new" if is_published else "arn:old",
            "measured_on": "all" if is_comparable else "good ratings",
            "metrics": {NDCG: published_ndcg},
        }
    candidate = ModelToPublish(model, "all", published)
    check = check_quality_gate(
        Gate(**gate), candidate, how_to_skip="", skip_quality_gate=publish_anyway
    )
    return Judgement(check.blocks, check.finding)


@dataclass(frozen=True)
class Sizes:
    """How much there is of a part of the data."""

    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many different users, for example."""
    filled: Mapping[str, int] = field(default_factory=dict)
    """How many rows have a value, by setting of the column."""


def judge_sizes(
    sizes: Sizes, published: Sizes, max_shrink: float, *, publish_anyway: bool = False
) -> Judgement:
    """Whether the data may be imported, compared with those that the published lists are of."""
    check = check_not_shrunk(
        "items",
        DataSize(sizes.rows, sizes.counts, sizes.filled),
        DataSize(published.rows, published.counts, published.filled),
        "edition 7",
        max_shrink,
        how_to_skip="",
        skip=publish_anyway,
    )
    return Judgement(check.blocks, check.finding)


def assign_arm(user: str, experiment: Mapping[str, Any]) -> str:
    """The arm of a user, `model` or `control`. experiment: as a pipeline's YAML has it."""
    return arms.assign_arm(user, Experiment.model_validate(experiment))


@dataclass(frozen=True)
class Effect:
    """What a user does in a day in the arms of an experiment. Intervals are of 95 %."""

    measure: str
    model: float
    control: float
    difference: tuple[float, float]
    lift: tuple[float, float] | None


@dataclass(frozen=True)
class ExperimentSummary:
    """What an experiment shows."""

    name: str
    success: str
    model_users: int
    control_users: int
    is_uneven: bool
    effects: Sequence[Effect]


@dataclass
class ListHistory:
    """Lists that were published one after the other, and what people did then."""

    folder: Path
    """Empty at first."""
    success: Sequence[str] = ()
    """The types of events that count alone."""

    @property
    def _work(self) -> Work:
        columns = {"user": "u", "item": "i", "timestamp": "t"}
        if self.success:
            columns |= {"event_type": "e", "event_value": "v"}
        pipeline = Pipeline.model_validate(
            {
                "name": "shop",
                "ratings": {"source": "ratings.csv", "columns": columns},
                "solution": {"success": [*self.success]},
            }
        )
        return Work(pipeline, StorageResource(root=str(self.folder), s3=S3Connection()))

    def publish(
        self,
        lists: Mapping[str, Sequence[str]],
        *,
        at: int,
        data_until: int,
        exclude_seen: bool = True,
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish the next edition: the items of each user.

        at: the time of the publication, in epoch seconds.
        data_until: the time of the newest interaction that the lists are made of.
        """
        table = self._work.files.table
        rows = [
            (user, rank, item)
            for user, items in lists.items()
            for rank, item in enumerate(items, 1)
        ]
        schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
        number = table.next_number()
        about: dict[str, Any] = {
            "edition": number,
            "version": f"v{number}",
            "made_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data_until": data_until,
            "exclude_seen": exclude_seen,
        }
        if experiment is not None:
            about["experiment"] = Experiment.model_validate(experiment).model_dump()
        with TemporaryDirectory() as folder:
            with TableWriter(Path(folder) / "lists.parquet") as writer:
                writer.write(pl.DataFrame(rows, schema=schema, orient="row").to_arrow())
                writer.finish(complete_about(about))
            table.publish(writer.path, keep=9)
        Publications(self._work.files).settle()

    def roll_back(self, *, at: int) -> None:
        """Make the edition before the live one live again, at this time."""
        files = self._work.files
        publications = Publications(files)
        edition = files.table.older()[0]
        moment = datetime.fromtimestamp(at, UTC)
        rollback = Rollback("run", f"{edition.number}", edition.number, moment)
        publications.write(replace(publications.read(), rollback=rollback))
        files.table.put_back(edition, keep=9)
        publications.settle()

    def drop_kept_editions(self) -> None:
        """Delete all editions but the live one, as retention does in the end."""
        work = self._work
        for edition in work.storage.store.list(work.files.table.history):
            work.storage.store.delete(edition.uri)

    def measure(self, interactions: pl.DataFrame) -> pl.DataFrame:
        """The table of outcomes.

        interactions: USER_ID, ITEM_ID, TIMESTAMP, with `success` EVENT_TYPE and EVENT_VALUE, too.
        """
        return self._measure(interactions).table

    def compare_arms(self, interactions: pl.DataFrame) -> ExperimentSummary | None:
        """What the newest experiment shows; None if there is none."""
        result = self._measure(interactions).experiment
        if result is None:
            return None
        effects = [
            Effect(
                effect.measure,
                effect.model.value,
                effect.control.value,
                (effect.difference.low, effect.difference.high),
                None if effect.lift is None else (effect.lift.low, effect.lift.high),
            )
            for effect in result.effects
        ]
        return ExperimentSummary(
            result.name,
            result.success,
            result.model_users,
            result.control_users,
            result.uneven,
            effects,
        )

    def _measure(self, interactions: pl.DataFrame) -> MeasuredOutcomes:
        work = self._work
        work.storage.store.put(work.files.interactions, interactions.write_csv().encode())
        return measure_outcomes(work)


def group_lists(attributes: Mapping[str, Any]) -> list[list[str]]:
    """The names of the lists that share a batch inference job, for each job.

    attributes: those of a pipeline with `lists`.
    """
    pipeline = Pipeline.model_validate(attributes)
    groups = shared_jobs.group_lists(pipeline)
    return [[list_pipeline.list_name or "" for list_pipeline in group] for group in groups]


@contextmanager
def short_filter_history(interactions: int) -> Iterator[None]:
    """Runs take it that Personalize's filter sees this many interactions of a user, as on AWS."""
    with patch.object(resources, "ALL_INTERACTIONS", interactions):
        yield


@contextmanager
def paid_personalize() -> Iterator[None]:
    """The embedded Personalize costs what AWS's does."""
    with patch.object(PersonalizeResource, "on_aws", property(lambda self: True)):
        yield


@contextmanager
def clock_of_trainings(**time: float) -> Iterator[None]:
    """Runs think it is later by this time, such as `days=6`, when they ask for a model's age."""
    later = datetime.now(UTC) + timedelta(**time)
    with patch.object(training, "now", lambda: later):
        yield


# The page -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Somebody whom the report shows, by the titles of items, or their ids without a title."""

    history: tuple[str, ...]
    """What they had, newest first."""
    listed: tuple[str, ...]
    """Their list, best first."""
    reasons: tuple[str, ...]
    """For each item of the list the item of the history that explains it, or an empty text."""


# A text, a number, or a number with the ends of its interval.
Cell = str | float | tuple[float, float, float]


@dataclass(frozen=True)
class Page:
    """What a report says."""

    verdict: str
    """Whether the lists can be sent, and why."""
    numbers: Mapping[str, float]
    """The numbers of its sentences and tiles, by the names of NUMBERS that are there."""
    tables: Mapping[str, list[list[Cell]]]
    """The rows of the tables of TABLES that are there."""
    people: Mapping[str, Person]
    """The people who can be looked up, by id."""


# What the page calls its numbers and tables.
NUMBERS = {
    "interactions": "interactions",
    "users with interactions": "users",
    "items with interactions": "items",
    "users requested": "requested",
    "users served": "served",
    "items each": "longest",
    "users without interactions": "cold",
    "users with 1 to 4 interactions": "few",
    "items recommended": "recommended",
    "items in the catalogue": "catalogue",
    "share of the top 1% in lists": "top_lists",
    "NDCG of the model": "normalized_discounted_cumulative_gain_at_25",
    "NDCG of popular items": "popularity_normalized_discounted_cumulative_gain_at_25",
    "share of a list that was kept": "overlap",
    "people who have a list now": "gained",
    "people who had a list": "lost",
    "hit rate": "hit_rate",
}
TABLES = {
    "categories": "category1",
    "data that changed": "changed-data",
    "failed checks": "failed-checks",
    "metrics that changed": "changed-metrics",
    "most recommended": "most",
    "nights": "nights",
    "outcomes": "outcomes-over-time",
    "passed checks": "checks",
    "settings that changed": "changed-settings",
}


def read_page(html: str) -> Page:
    """What the report says, for a program to compare."""
    reader = _PageReader(html)
    data = json.loads(reader.data)
    titles = [row[0] if row[1] is None else row[1] for row in data["items"]]
    people = {}
    for user, _, history, listed in data["people"]:
        people[user] = Person(
            tuple(titles[place] for place in history[::2]),
            tuple(titles[place] for place in listed[::3]),
            tuple(titles[place] if place >= 0 else "" for place in listed[1::3]),
        )
    tables = {
        name: [
            [_read_cell(cell) for cell in row]
            for part in ("table", "more-table")
            for row in reader.tables.get(f"{key}-{part}", [])[1:]
        ]
        for name, key in TABLES.items()
    }
    return Page(
        " ".join(reader.verdict.split()),
        {name: reader.facts[key] for name, key in NUMBERS.items() if key in reader.facts},
        {name: rows for name, rows in tables.items() if rows},
        people,
    )


def _read_cell(parts: tuple[str | float, ...]) -> Cell:
    numbers = [part for part in parts if isinstance(part, float)]
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return numbers[0] if numbers else "".join(map(str, parts)).strip()


class _PageReader(HTMLParser):
    """Reads the values that the page has for programs, the rows of tables, and the verdict."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.facts: dict[str, float] = {}
        # Of each cell the texts up to the first number, and the numbers.
        self.tables: dict[str, list[list[tuple[str | float, ...]]]] = {}
        self.data = self.verdict = ""
        self._fact = self._table = ""
        self._is_in_people = self._is_in_verdict = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "span":
            self._fact = attributes.get("data-fact") or ""
        elif tag == "data":
            value = float(attributes["value"] or "")
            if self._fact:
                assert self.facts.setdefault(self._fact, value) == value, self._fact
            if self._table:
                self.tables[self._table][-1][-1] += (value,)
        elif tag == "table":
            self._table = attributes["id"] or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("th", "td"):
            self.tables[self._table][-1].append(())
        elif tag == "section":
            self._is_in_verdict = "verdict" in (attributes.get("class") or "")
        elif tag == "script":
            self._is_in_people = attributes.get("id") == "people-data"

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""
        elif tag == "span":
            self._fact = ""
        elif tag == "section":
            self._is_in_verdict = False
        elif tag == "script":
            self._is_in_people = False

    def handle_data(self, data: str) -> None:
        if self._is_in_people:
            self.data += data
        elif self._is_in_verdict:
            self.verdict += data
        elif self._table and self.tables[self._table] and self.tables[self._table][-1]:
            cells = self.tables[self._table][-1]
            if not any(isinstance(part, float) for part in cells[-1]):
                cells[-1] += (data,)


@dataclass(frozen=True)
class ShownPerson:
    """What a browser shows of a person: texts as they can be read."""

    name: str
    history: tuple[str, ...]
    listed: tuple[str, ...]


def look_up(tab: Any, user: str) -> ShownPerson | None:
    """Type the id where the opened report asks for it; None if it says that nobody is found."""
    tab.get_by_label("Find a user").fill(user)
    if not tab.locator("#person").is_visible():
        return None
    return ShownPerson(
        tab.locator("#person-name").text_content(),
        tuple(tab.locator("#history li bdi").all_text_contents()),
        tuple(tab.locator("#recommended li div > button bdi").all_text_contents()),
    )


def as_markdown(text: str) -> str:
    """A line of Dagster's Markdown that shows the text, and nothing else."""
    return escape_markdown(text)


def as_markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Dagster's Markdown whose cells show these texts, and nothing else."""
    return format_markdown_table(columns, rows)


def as_terminal(text: str) -> str:
    """What a terminal gets to show the text, and nothing else."""
    return escape_invisible(text)


@dataclass(frozen=True)
class JudgedFacts:
    """What is known of lists when they are judged. By default nothing speaks against them."""

    ndcg: float = 0.19
    popular_ndcg: float = 0.06
    """Of the most popular items."""
    margin: float | None = 0.02
    """Half the width of the 95% intervals; None if there are none."""
    tested_users: int = 211
    ndcg_before: float | None = None
    """Of what readers had before, measured in the same way."""
    requested_users: int = 2_000
    served_users: int = 2_000
    full_lists: int = 2_000
    rows: int = 50_000
    rows_without_title: int = 0
    heaviest_share: float = 0.01
    """The share of all interactions that one user has."""
    data_changes: tuple[str, ...] = ()
    """What changed much in the data, in words."""
    warnings: tuple[str, ...] = ()
    """The names of checks that warn."""
    overruled: tuple[str, ...] = ()
    """The names of checks that refused the lists, which somebody published anyway."""


def judge(facts: JudgedFacts) -> Literal["good", "watch", "refuse"]:
    """Whether the lists are good, somebody should look at them, or they should not be sent."""

    def estimate(value: float) -> MetricEstimate:
        if facts.margin is None:
            return MetricEstimate(value)
        return MetricEstimate(value, value - facts.margin, value + facts.margin)

    lead = facts.ndcg - facts.popular_ndcg
    estimates = map(estimate, (facts.ndcg, facts.popular_ndcg, lead))
    before = None
    if facts.ndcg_before is not None:
        before = PreviousEdition(1, estimate(facts.ndcg_before))
    verdict = judge_edition(
        VerdictFacts(
            ndcg=facts.ndcg,
            tested=Evidence("all", facts.tested_users, *estimates),
            before=before,
            requested=facts.requested_users,
            served=facts.served_users,
            full=facts.full_lists,
            rows=facts.rows,
            untitled=facts.rows_without_title,
            heaviest=facts.heaviest_share,
            drift=facts.data_changes,
            checks=facts.warnings,
            overruled=facts.overruled,
        )
    )
    return "refuse" if verdict.judgement == "bad" else verdict.judgement


# --- Personalize ---


def mask_items(
    expression: str,
    data: Mapping[str, pl.DataFrame],
    item_ids: Sequence[str],
    user_ids: Sequence[str],
    latest: int = 100,
) -> list[list[bool]]:
    """Whether a filter lets each item into each user's list.

    data: the datasets of the group, by INTERACTIONS, ITEMS and USERS.
    item_ids: the items that the model knows.
    latest: how many of a user's latest interactions, of each event type, the filter considers.
    """
    job_filter = JobFilter(expression, _reader(data), item_ids, latest)
    scores = np.zeros((len(user_ids), len(item_ids)), dtype=np.float32)
    job_filter.exclude_for_users(user_ids)(slice(0, len(user_ids)), scores)
    allowed: list[list[bool]] = (scores == 0).tolist()
    return allowed


def mask_similar_items(
    expression: str, data: Mapping[str, pl.DataFrame], item_ids: Sequence[str]
) -> list[bool]:
    """Whether a filter lets each item into a list for an item, which no user asks for."""
    scores = np.zeros((1, len(item_ids)), dtype=np.float32)
    job_filter = JobFilter(expression, _reader(data), item_ids)
    job_filter.exclude_for_items(1)(slice(0, 1), scores)
    allowed: list[bool] = (scores[0] == 0).tolist()
    return allowed


def mask_users(
    expression: str, data: Mapping[str, pl.DataFrame], user_ids: Sequence[str]
) -> list[bool]:
    """Whether a filter lets each user into a segment."""
    allowed: list[bool] = JobFilter(expression, _reader(data), []).mask_users(user_ids).tolist()
    return allowed


def _reader(data: Mapping[str, pl.DataFrame]) -> Callable[[str, Sequence[str]], pl.DataFrame]:
    return lambda dataset_type, columns: data[dataset_type].select(columns)


# Dagster, the declaration, the commands -----------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a declaration, as the user is told when the project loads."""

    file: Path
    line: int
    """Of the file, from 1 on; 0 for a pipeline that Python makes."""
    setting: str
    """The path of the setting, such as `gate.max_drop`; empty if the file is no YAML."""
    message: str


def find_refusals(project: Project) -> list[Refusal]:
    """Load the project, and return what is refused; nothing if all pipelines load."""
    try:
        with definitions(project):
            return []
    except DeclarationError as error:
        lines = str(error).splitlines()
    matches = [_REFUSAL.fullmatch(line) for line in lines]
    return [
        Refusal(Path(match["file"]), int(match["line"] or 0), match["setting"] or "", match["text"])
        for match in matches
        if match is not None
    ]


_REFUSAL = re.compile(
    r"(?P<file>[^:]+?)(?:, line (?P<line>\d+))?: (?:(?P<setting>[\w.]+): )?(?P<text>.+)"
)


def publish_lists(project: Project, address: str, time: datetime) -> None:
    """Publish the next edition of a list, such as `shop/home`, at that time, without a run."""
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    files = PipelineFiles(storage, StorageKeys(address))
    number = files.table.next_number()
    facts = {"edition": number, "version": f"v{number}", "made_at": time.isoformat()}
    with temporary_folder() as folder, TableWriter(folder / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["1"], "rank": [1], "item_id": [f"i{number}"]}))
        writer.finish(complete_about(facts))
        publications = Publications(files)
        files.table.publish(folder / "lists.parquet", 7)
        publications.write(remember_facts(publications.read(), files))


@contextmanager
def look_at(time: datetime) -> Iterator[None]:
    """A block in which the sensor of alerts about lists takes this time for now."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return time.astimezone(tz or UTC)

    with patch.object(list_alerts, "datetime", Clock):
        yield


def list_files_taken_in(result: dg.ExecuteInProcessResult, name: str) -> list[str]:
    """The file names of the ratings that a run of the pipeline took in."""
    record = result.output_for_node(f"{name}__raw_ratings")
    return [file.source.rpartition("/")[2] for file in record.files]


# What tells the user what Personalize refused, or what failed there.
PersonalizeFailure = PersonalizeError


@dataclass(frozen=True)
class Resources:
    """The pipeline's side of Personalize: finds, adopts or creates what it needs."""

    client: PersonalizeClient
    pipeline: str = "shop"
    deadline_seconds: float = 60

    def start(
        self,
        kind: str,
        name: str,
        params: Mapping[str, Any],
        parent: Mapping[str, str] | None = None,
        *,
        is_usable: bool = True,
    ) -> str:
        """The ARN of what has the name, which is created if there is none.

        kind: in words, such as solution version. Jobs and versions get a number after the name.
        params: Create's, besides the name and tags.
        parent: List's filter.
        is_usable: whether a job that exists can serve.
        Raises PersonalizeFailure.
        """
        resource_kind, within = _find_kind(kind), dict(parent or {})
        if not resource_kind.is_numbered:
            return self._ensure.start_named(resource_kind, name, params, **within).arn
        return self._start_numbered(resource_kind, name, params, within, is_usable).arn

    def ensure(
        self,
        kind: str,
        name: str,
        params: Mapping[str, Any],
        parent: Mapping[str, str] | None = None,
    ) -> str:
        """As `start`, once it is ready. What failed is started once more."""
        resource_kind, within = _find_kind(kind), dict(parent or {})
        if not resource_kind.is_numbered:
            return self._ensure.find_or_create(resource_kind, name, params, **within).arn
        (ready,) = self._ensure.start_and_wait(
            resource_kind, lambda: [self._start_numbered(resource_kind, name, params, within)]
        )
        return ready.arn

    def _start_numbered(
        self,
        kind: ResourceKind,
        name: str,
        params: Mapping[str, Any],
        within: dict[str, Any],
        is_usable: bool = True,
    ) -> StartedResource:
        return self._ensure.start_numbered(
            kind, name, lambda _: params, lambda _: is_usable, **within
        )

    def find_groups(self) -> list[str]:
        """The ARNs of the pipeline's dataset groups."""
        return find_dataset_groups(self._ensure, self.pipeline)

    def erase_users(
        self, store: ObjectStore, folder: str, users: Sequence[str], request: str
    ) -> list[ErasedFromGroup]:
        """Erase people from all dataset groups of the pipeline.

        folder: the URI of the folder for the list of people, which is there during the job.
        request: what the names of the jobs say.
        Raises PersonalizeFailure.
        """
        groups = self.find_groups()
        results = erase_users_from_groups(
            self._ensure, store, folder, groups, users, request=request
        )
        return [ErasedFromGroup(r.job_arn, r.status, r.records_deleted) for r in results]

    @cached_property
    def _ensure(self) -> Ensure:
        return Ensure(
            client=self.client,
            log=logging.getLogger("guard"),
            tags={PIPELINE_TAG: self.pipeline, STORAGE_TAG: "s3://data/"},
            poll_seconds=0.01,
            busy_seconds=0.01,
            heartbeat_seconds=60,
            deadline_seconds=self.deadline_seconds,
            role_arn="arn:aws:iam::000000000000:role/personalize",
        )


@dataclass(frozen=True)
class ErasedFromGroup:
    """What came of a data deletion job."""

    job_arn: str
    status: str
    records_deleted: int | None


def _find_kind(label: str) -> ResourceKind:
    return next(
        kind
        for kind in vars(resource_kinds).values()
        if isinstance(kind, ResourceKind) and kind.label == label
    )


def train(
    interactions: pl.DataFrame,
    folder: Path,
    recipe: str = "aws-user-personalization-v2",
    options: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Train a model, save it in the folder, and return its metrics.

    interactions: USER_ID, ITEM_ID and TIMESTAMP.
    options: the recipe's hyperparameters.
    """
    trained = recipes.train(recipe, TrainingInteractions.from_frame(interactions), options or {})
    trained.model.save(folder)
    return trained.metrics


def infer(
    folder: Path, interactions: pl.DataFrame, user_ids: Sequence[str], length: int
) -> list[list[tuple[str, float]]]:
    """Each user's items with their scores, best first, by the model that was saved in the folder.

    interactions: those to recommend from, which may be newer than the training.
    """
    model = load_model(folder)
    assert isinstance(model, UserModel)
    chunks = model.recommend(user_ids, TrainingInteractions.from_frame(interactions), length)
    return [
        [
            (str(model.item_ids[item]), float(score))
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        ]
        for chunk in chunks
        for items, scores in zip(chunk.items, chunk.scores, strict=True)
    ]
