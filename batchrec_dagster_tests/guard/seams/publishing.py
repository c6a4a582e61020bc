"""Editions and sinks: publish, roll back, and write to other places."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import polars as pl

from batchrec_dagster import sinks
from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.editions import editions as editions_module
from batchrec_dagster.editions.edition import Edition, ListCounts
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.editions.subjects import ITEMS, USERS
from batchrec_dagster.errors import Refused as Refused
from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.reporting.insight.describe_list import find_before
from batchrec_dagster.steps.context import Run, StepContext
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.steps.lists import publish, rollback
from batchrec_dagster.steps.lists.publish import EditionDraft
from batchrec_dagster.steps.lists.rollback import PREVIOUS
from batchrec_dagster.steps.lists.user_rows import erase_from_editions
from batchrec_dagster.steps.outcomes.outcomes import measure_outcomes
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.erased import add_erased_users
from batchrec_dagster.storage.objects import ObjectNotFoundError
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_groups, make_popularity
from batchrec_dagster_tests.guard.seams.store import Store

NoEditionError = UserError

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
    """The lists that a night made and would publish, and facts about them."""

    model: str
    """The name of the model."""
    data: str
    """The version of the data."""
    lists: pl.DataFrame
    """user_id, rank, item_id."""
    time: datetime
    """The time at which the lists become live."""
    data_until: int = 0
    """The time of the newest interaction, in epoch seconds."""
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
    """The editions of the pipeline `shop`: the live edition, and the newest earlier ones."""

    store: Store
    kept: int = 3
    """The number of earlier editions that are kept."""
    unfinished_runs: set[str] = field(default_factory=set)
    """The ids of runs that failed or were stopped, according to Dagster."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further blocks of the declaration."""

    def live(self) -> PublishedEdition | None:
        """Return the live edition; None before the first publication."""
        try:
            edition, rows = self._table.read()
        except ObjectNotFoundError:
            return None
        return PublishedEdition(edition.number, rows.select(LIST_COLUMNS).collect())

    def older(self) -> list[PublishedEdition]:
        """Return the earlier editions that are kept, newest first."""
        return [self._read(edition) for edition in self._table.older()]

    def before(self) -> int | None:
        """Return the number of the edition that the report compares with the live edition.

        Return None if there is no live edition, or if the other edition is not kept.
        """
        live = self._table.live()
        if live is None:
            return None
        before = find_before(self._files, self._table.record(), live)
        return None if before is None else before.number

    def nights(self) -> list[tuple[int, str, datetime]]:
        """Return number, reason and time of the editions that became live, oldest first."""
        reasons = {"published": "published", "restored": "rollback"}
        return [
            (night.edition or 0, reasons[night.ended], night.time)
            for night in self._table.record().publications
        ]

    def publish(self, night: NightsWork, *, anyway: bool = False) -> int:
        """Publish the night's lists, and return the number of their edition.

        Raises Refused if the gate refuses the model.

        anyway: whether to publish in spite of the gate.
        """
        model = ModelRecord(
            made_of={},
            version=night.model,
            solution_version_arn=night.model,
            data_version=night.data,
            metrics={NDCG: night.ndcg, "coverage": 0.2},
            groups=make_groups(night.ndcg),
            measured_popularity=make_popularity(0.06),
        )
        run = f"run of {night.model}"
        with _at(night.time), TemporaryDirectory() as folder:
            step = replace(self._step, run=Run(run, run, publish_anyway=anyway))
            draft = EditionDraft(step, self._list, model, {"subjects": night.users_version})
            require_passed(draft.judge_model())
            with ListWriter(Path(folder) / "lists.parquet") as writer:
                writer.write(night.lists.to_arrow())
                version = re.sub(r"\W", "_", f"{night.model}_{night.users_version}")
                made = draft.describe(
                    version,
                    [],
                    counts=ListCounts(subjects=night.lists.get_column("user_id").n_unique()),
                    data_until=night.data_until,
                )
                writer.finish(made)
            return draft.publish(writer.path, ALONE).number

    def count_against_only(self) -> int | None:
        """Return how many of the live edition's rows break the rule `only`.

        The last rollback recorded this number.
        """
        live = self._table.live()
        return None if live is None else live.rows_against_only

    def damage_live(self) -> None:
        """Overwrite the live file with a damaged one, as a faulty disk does."""
        self.store.put("shop/curated/recommendations/recommendations.parquet", b"PAR1")

    def delete_live(self) -> None:
        """Delete the live file, as the message about a damaged file advises."""
        self.store.delete("shop/curated/recommendations/recommendations.parquet")

    def roll_back(self, to: int | None = None, *, run: str, time: datetime) -> int:
        """Make an earlier edition live again, and return its number.

        The edition is published without users who are gone.
        Raises NoEditionError if there is no such edition.

        to: the number of the edition; None for the edition before the live one.
        run: the id of the run, or of the first run if this is a retry.
        time: the time of the rollback.
        """
        target = PREVIOUS if to is None else str(to)
        with _at(time):
            log = logging.getLogger("rollback")
            step = replace(self._step, run=Run(run, run))
            restoration = rollback.roll_back(step, self._list, target, self, ALONE, log)
        return restoration.edition.number

    def set_users(self, users: Iterable[str]) -> None:
        """Write the users who get lists from now on."""
        lines = pl.DataFrame({"userId": sorted(users)}).write_ndjson()
        self.store.put("shop/transformed/batch_users_input/users.json", lines.encode())

    def set_interactions(self, interactions: pl.DataFrame) -> None:
        """Write the interactions: USER_ID, ITEM_ID and TIMESTAMP."""
        key = "shop/transformed/interactions/interactions.csv"
        self.store.put(key, interactions.write_csv().encode())

    def erase(self, users: Iterable[str]) -> None:
        """Remember these users as erased, and remove them from all editions."""
        erased = pl.Series("user_id", [*users], pl.String)
        add_erased_users(self._files, erased)
        erase_from_editions(self._table, erased)

    def lose_record(self) -> None:
        """Delete the record of the publications, which is kept beside the files of the lists."""
        self.store.delete("shop/records/editions.json")

    def count_interactions(self) -> dict[int, int]:
        """Return the number of interactions that count for each edition in the outcomes."""
        sums = measure_outcomes(self._step, self._list).sums
        return dict(sums.group_by("edition").agg(pl.col("interactions").sum()).rows())

    def is_unfinished(self, run_id: str) -> bool:
        """Return whether the run failed or was stopped, in place of Dagster's run history."""
        return run_id in self.unfinished_runs

    def has_ended(self, run_id: str) -> bool:
        """Return true for every run, in place of Dagster's run history."""
        return True

    def _read(self, edition: Edition) -> PublishedEdition:
        lists = self._table.read_rows(edition).select(LIST_COLUMNS).collect()
        return PublishedEdition(edition.number, lists)

    @cached_property
    def _pipeline(self) -> Pipeline:
        retention = {"editions": self.kept}
        blocks = {**_SHOP_ATTRIBUTES, "retention": retention, **self.settings}
        return Pipeline.model_validate(blocks)

    @property
    def _list(self) -> ListTable:
        return self._pipeline.user_lists[0]

    @cached_property
    def _step(self) -> StepContext:
        return StepContext(self._pipeline, self.store.storage, Run("run", "run"))

    @property
    def _files(self) -> ListFiles:
        return self._step.files_of(self._list)

    @property
    def _table(self) -> editions_module.Editions:
        return self._files.editions


SinkFailedError = UserError
SinkRetryError = Retry
"""The error of a sink that may work a little later."""


@dataclass(frozen=True)
class Sink:
    """A sink as a pipeline declares it: `sinks: {KIND: SETTINGS}`."""

    kind: str
    settings: Mapping[str, Any]
    store: Store
    """The storage of the pipeline."""
    environment: Mapping[str, str] = field(default_factory=dict)
    project: Path = Path()
    """The project's folder, at which relative paths start."""
    address: str = "shop"
    """The address of the pipeline or of its list, such as `shop/similar_items`."""

    def write(self, lists: pl.DataFrame, run_id: str = "run") -> tuple[int, int]:
        """Replace the lists in the sink, and return the numbers of written rows and users.

        Raises SinkFailedError and SinkRetryError.
        """
        with patch.dict(os.environ, self.environment):
            counts = self._sink.write(lists.lazy(), self._context(run_id)).counts
        return counts.rows, counts.users

    def remains(self, lists: pl.DataFrame) -> str | None:
        """Write these lists, and return a text about the earlier lists that the sink keeps.

        Return None if the sink keeps no earlier lists.
        """
        with patch.dict(os.environ, self.environment):
            return self._sink.write(lists.lazy(), self._context("run")).remains

    def check(self) -> str | None:
        """Try everything that writing needs, and leave nothing behind.

        Return advice for the user; None if everything works.
        Raises SinkFailedError and SinkRetryError.
        """
        with patch.dict(os.environ, self.environment):
            return self._sink.check(self._context("")).fix

    @property
    def _sink(self) -> sinks.Sink:
        blocks = {**_SHOP_ATTRIBUTES, "sinks": {self.kind: self.settings}}
        return Pipeline.model_validate(blocks).sinks.declared[self.kind]

    def _context(self, run_id: str) -> sinks.SinkContext:
        return sinks.SinkContext(
            self.address,
            self.store.storage,
            self.project,
            run_id,
            ITEMS if self.address.endswith("/similar_items") else USERS,
        )


@contextmanager
def _at(time: datetime) -> Iterator[None]:
    """Set the clock of publications and rollbacks to this time, during the block."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls.fromtimestamp(time.timestamp(), UTC)

    with patch.object(publish, "datetime", Clock), patch.object(rollback, "datetime", Clock):
        yield
