"""Outcomes: published lists and what people did then in, what the lists brought out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.steps import arms
from batchrec_dagster.steps.outcomes import MeasuredOutcomes, measure_outcomes, pool_outcomes
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.estimate import Estimate
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster_tests.guard.seams.editions import (
    ALONE,
    make_edition,
    restore,
)


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
        return Work(pipeline, Storage(root=str(self.folder), s3=S3Connection()))

    @property
    def _files(self) -> ListFiles:
        work = self._work
        return work.files_of(work.pipeline.user_lists[0])

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
        table = self._files.editions
        rows = [
            (user, rank, item)
            for user, items in lists.items()
            for rank, item in enumerate(items, 1)
        ]
        schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
        number = table.next_number()
        about: dict[str, Any] = {
            "number": number,
            "version": f"v{number}",
            "made_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data_until": data_until,
            "exclude_seen": exclude_seen,
        }
        if experiment is not None:
            about["experiment"] = Experiment.model_validate(experiment).model_dump()
        with TemporaryDirectory() as folder:
            with ListWriter(Path(folder) / "lists.parquet") as writer:
                writer.write(pl.DataFrame(rows, schema=schema, orient="row").to_arrow())
                writer.finish(make_edition(about))
            table.publish(writer.path, 9, ALONE)

    def roll_back(self, *, at: int) -> None:
        """Make the edition before the live one live again, at this time."""
        editions = self._files.editions
        restore(editions, editions.older()[0], datetime.fromtimestamp(at, UTC))

    def drop_kept_editions(self) -> None:
        """Delete all editions but the live one, as retention does in the end."""
        store = self._work.storage.store
        for edition in store.list(self._files.editions.history):
            store.delete(edition.uri)

    def measure(self, interactions: pl.DataFrame) -> pl.DataFrame:
        """The table of outcomes.

        interactions: USER_ID, ITEM_ID, TIMESTAMP, with `success` EVENT_TYPE and EVENT_VALUE, too.
        """
        return self._measure(interactions).table

    def pool(self, interactions: pl.DataFrame) -> tuple[float, float, float, int] | None:
        """By how much more people the lists of all editions reached than popular items would have,
        with the ends of the 95% interval, and how many were active; None if nobody can say."""
        sums = self._measure(interactions).sums
        behaviour = pool_outcomes(sums, self.success)
        if behaviour is None or behaviour.gain.ends is None:
            return None
        return behaviour.gain.value, *behaviour.gain.ends, behaviour.users

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
                _read_ends(effect.difference),
                None if effect.lift is None else _read_ends(effect.lift),
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
        return measure_outcomes(work, work.pipeline.user_lists[0])


def _read_ends(estimate: Estimate) -> tuple[float, float]:
    assert estimate.ends is not None
    return estimate.ends
