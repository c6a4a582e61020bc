"""Outcomes: measure published lists against the interactions that followed."""

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
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.steps.context import Run, StepContext
from batchrec_dagster.steps.outcomes import arms
from batchrec_dagster.steps.outcomes.outcomes import (
    MeasuredOutcomes,
    measure_outcomes,
    pool_outcomes,
)
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster_tests.guard.seams.editions import (
    ALONE,
    make_edition,
    restore,
)


def assign_arm(user: str, experiment: Mapping[str, Any]) -> str:
    """Return the arm of a user, `model` or `control`.

    experiment: the block `experiment` of a pipeline's YAML.
    """
    return arms.assign_arm(user, Experiment.model_validate(experiment))


@dataclass(frozen=True)
class Effect:
    """A measure per user and day in the two arms of an experiment.

    `difference` and `lift` are the two ends of 95% intervals. `lift` is None if it is unknown.
    """

    measure: str
    model: float
    control: float
    difference: tuple[float, float]
    lift: tuple[float, float] | None


@dataclass(frozen=True)
class ExperimentSummary:
    """The results of an experiment."""

    name: str
    success: str
    model_users: int
    control_users: int
    is_uneven: bool
    effects: Sequence[Effect]


@dataclass
class ListHistory:
    """A list with several editions, published one after the other, and their outcomes."""

    folder: Path
    """The folder of the storage, which is empty at first."""
    success: Sequence[str] = ()
    """The only event types that count; empty if all count."""

    @property
    def _step(self) -> StepContext:
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
        return StepContext(
            pipeline, Storage(root=str(self.folder), s3=S3Connection()), Run("run", "run")
        )

    @property
    def _files(self) -> ListFiles:
        step = self._step
        return step.files_of(step.pipeline.user_lists[0])

    def publish(
        self,
        lists: Mapping[str, Sequence[str]],
        *,
        at: int,
        data_until: int,
        exclude_seen: bool = True,
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish the next edition.

        lists: the items of each user.
        at: the time of the publication, in epoch seconds.
        data_until: the time of the newest interaction that the lists were made from, in epoch
            seconds.
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
        """Make the edition before the live one live again.

        at: the time of the rollback, in epoch seconds.
        """
        editions = self._files.editions
        restore(editions, editions.older()[0], datetime.fromtimestamp(at, UTC))

    def drop_kept_editions(self) -> None:
        """Delete all editions but the live one, as retention does after a while."""
        store = self._step.storage.store
        for edition in store.list(self._files.editions.history):
            store.delete(edition.uri)

    def measure(self, interactions: pl.DataFrame) -> pl.DataFrame:
        """Return the table of outcomes.

        interactions: USER_ID, ITEM_ID and TIMESTAMP, and with `success` also EVENT_TYPE and
            EVENT_VALUE.
        """
        return self._measure(interactions).table

    def pool(self, interactions: pl.DataFrame) -> tuple[float, float, float, int] | None:
        """Return the lead of the lists over popular items, pooled over all editions.

        The lead is the gain in the share of active users who had an item of their list, compared
        with lists of popular items. Return the lead, the two ends of its 95% interval, and the
        number of active users; None if the lead or its interval is unknown.
        """
        sums = self._measure(interactions).sums
        behaviour = pool_outcomes(sums, self.success)
        if behaviour is None or behaviour.gain.ends is None:
            return None
        return behaviour.gain.value, *behaviour.gain.ends, behaviour.users

    def compare_arms(self, interactions: pl.DataFrame) -> ExperimentSummary | None:
        """Return the results of the newest experiment; None if there is no experiment."""
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
        step = self._step
        step.storage.store.put(step.files.interactions, interactions.write_csv().encode())
        return measure_outcomes(step, step.pipeline.user_lists[0])


def _read_ends(estimate: Estimate) -> tuple[float, float]:
    assert estimate.ends is not None
    return estimate.ends
