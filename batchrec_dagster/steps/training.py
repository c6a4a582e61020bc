"""Which models a run trains, and which it reuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.ensure import (
    ACTIVE,
    FAILED,
    SOLUTION,
    SOLUTION_VERSION,
    Description,
    Ensure,
    Started,
)
from batchrec_dagster.personalize.recipes import recipe_arn
from batchrec_dagster.steps.batch_jobs import solution_config, solution_name, stem
from batchrec_dagster.steps.publishing import lists_key, storage_errors
from batchrec_dagster.steps.quality_gate import quality_gate
from batchrec_dagster.steps.rollback import published_table, was_rolled_back
from batchrec_dagster.storage.paths import read_record
from batchrec_dagster.storage.resource import StorageResource

REUSABLE = (ACTIVE, "CREATE PENDING", "CREATE IN_PROGRESS")
# Two runs of one schedule do not reach the training at the same minute.
EARLY = timedelta(hours=6)


@dataclass(frozen=True)
class Trainer:
    """Decides which solution versions an asset reuses, and which it trains.

    recipes: hyperparameters by recipe; of two, the second is trained to compare with.
    stem: what the names of versions trained on the current data start with.
    """

    pipeline: Pipeline
    asset: str
    recipes: Mapping[str, dict[str, str]]
    stem: str
    force: bool
    ensure: Ensure
    storage: StorageResource

    def reused(self, solutions: Sequence[str | None]) -> list[Description | None]:
        """For each recipe the version to reuse, of its solution's ARN; None: train."""
        newest = [self._newest(arn) if arn else None for arn in solutions]
        model = newest[0]
        is_current = model is not None and self._is_current(model)
        if model is None or self.force or not (is_current or self._is_young_enough(model)):
            return [one if one and self._is_current(one) else None for one in newest]
        return [one if one and self._compares(one, model) else None for one in newest]

    def start(self, dataset: Mapping[str, str]) -> list[Started]:
        """For each recipe the solution version to reuse, or a new one on the imported data."""
        group, ensure = dataset["dataset_group_arn"], self.ensure
        solutions = [
            ensure.named(
                SOLUTION,
                solution_name(dataset["dataset_group_name"], recipe, hyperparameters),
                {
                    "datasetGroupArn": group,
                    "recipeArn": recipe_arn(recipe),
                    # Left to itself Personalize trains, and bills, every seven days.
                    "performAutoTraining": False,
                    "solutionConfig": solution_config(hyperparameters),
                },
                datasetGroupArn=group,
            ).arn
            for recipe, hyperparameters in self.recipes.items()
        ]

        def start(solution: str, reused: Description | None) -> Started:
            if reused is not None:
                return Started(reused[SOLUTION_VERSION.arn], created=False)
            return ensure.start_numbered(
                SOLUTION_VERSION,
                self.stem,
                lambda name: {"solutionArn": solution},
                solutionArn=solution,
            )

        reused = self.reused(solutions)
        return [start(*each) for each in zip(solutions, reused, strict=True)]

    def _compares(self, version: Description, model: Description) -> bool:
        """Whether it was trained on the model's data, or, where that run was killed, later."""
        same = trained_on(self.pipeline, version) == trained_on(self.pipeline, model)
        return same or bool(version["creationDateTime"] >= model["creationDateTime"])

    def _is_current(self, version: Description) -> bool:
        return bool(version["name"].startswith(f"{self.stem}-"))

    def _newest(self, solution: str) -> Description | None:
        """The newest version that has not failed."""
        there = [
            version
            for version in self.ensure.list(SOLUTION_VERSION, solutionArn=solution)
            if version["status"] not in FAILED
        ]
        if not there:
            return None
        newest = sorted(there, key=lambda version: version["creationDateTime"])[-1]
        return self.ensure.describe(SOLUTION_VERSION, newest[SOLUTION_VERSION.arn])

    def _is_young_enough(self, version: Description) -> bool:
        """Whether solution.retrain lets this version serve newer data."""
        days = self.pipeline.solution.retrain.every_days
        if days is None or version["status"] not in REUSABLE:
            return False
        if now() - version["creationDateTime"] >= timedelta(days) - EARLY:
            return False
        record = read_record(self.storage, self.pipeline.places.record(self.asset))
        if record.get("solution_version_arn") != version[SOLUTION_VERSION.arn]:
            return True  # A run was killed after it had started this training.
        if record.get("trained_with") != fingerprint(self.pipeline.interactions):
            return False
        return self.asset != "solution_version" or self._passes_gate(record)

    def _passes_gate(self, record: Mapping[str, Any]) -> bool:
        """Whether lists of the recorded model may be published: one that may not is replaced as
        soon as there are other data."""
        places = self.pipeline.places
        with storage_errors():
            current = published_table(self.storage, places).current()
            key = lists_key(self.pipeline, record["solution_version_arn"])
            rolled_back = was_rolled_back(self.storage, places, [key])
        return quality_gate(
            self.pipeline.gate,
            record,
            current.about if current else None,
            record["trained_with"],
            how_to_skip="",
            rolled_back=rolled_back,
        ).passed


def trained_on(pipeline: Pipeline, version: Description) -> str:
    """The first 12 digits of the version of the data: they are part of its name."""
    return str(version["name"]).removeprefix(f"{pipeline.name}-")[:12]


def now() -> datetime:
    """The time that a version's creationDateTime is compared with."""
    return datetime.now(UTC)


def all_recipes(pipeline: Pipeline) -> list[str]:
    """Every recipe that the pipeline trains."""
    return [recipe for recipes in trained_by(pipeline).values() for recipe in recipes]


def recipes_to_train(
    pipeline: Pipeline,
    context: dg.AssetExecutionContext,
    ensure: Ensure,
    storage: StorageResource,
    dataset_group: Mapping[str, str],
    data_version: str,
) -> list[str]:
    """The recipes that this run will train on data of this version, by the same rules as the
    assets that train them. dataset_group: its dataset_group_arn and dataset_group_name."""
    there = {
        solution["name"]: str(solution[SOLUTION.arn])
        for solution in ensure.list(SOLUTION, datasetGroupArn=dataset_group["dataset_group_arn"])
    }
    ops: Any = context.run.run_config.get("ops") or {}
    due = []
    for asset, recipes in trained_by(pipeline).items():
        config = (ops.get(f"{pipeline.name}__{asset}") or {}).get("config") or {}
        force = bool(config.get("force_train"))
        name = stem(pipeline.name, data_version, context, afresh=force)
        trainer = Trainer(pipeline, asset, recipes, name, force, ensure, storage)
        names = [
            solution_name(dataset_group["dataset_group_name"], *each) for each in recipes.items()
        ]
        reused = trainer.reused([there.get(name) for name in names])
        due += [recipe for recipe, one in zip(recipes, reused, strict=True) if one is None]
    return due


def trained_by(pipeline: Pipeline) -> dict[str, dict[str, dict[str, str]]]:
    """By asset the recipes that it trains, with their hyperparameters."""
    trained = {"solution_version": pipeline.solution.recipes}
    if pipeline.segments:
        trained["segment_solution_version"] = {pipeline.segments.recipe: {}}
    return trained
