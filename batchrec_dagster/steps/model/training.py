"""The training of solution versions, and the reuse of versions that earlier runs trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batchrec_dagster.config import fingerprint
from batchrec_dagster.config.solution import Training
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.personalize.api import ACTIVE, FAILED, SOLUTION, SOLUTION_VERSION, Description
from batchrec_dagster.personalize.expired_models import has_model
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.personalize.measurements import (
    get_solution_metrics,
    name_engine,
    read_header,
)
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.recipes import build_recipe_arn
from batchrec_dagster.personalize.resources import ReadyResource, StartedResource
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.success import check_success_known
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.steps.model.cost import (
    add_payment,
    estimate_trainings,
    find_restart_obstacle,
    price_training,
    read_estimate,
)
from batchrec_dagster.steps.model.solutions import (
    DATA_DIGITS,
    build_solution_config,
    build_solution_name,
    build_version_stem,
)
from batchrec_dagster.steps.records import DatasetRecord, ModelRecord, read_model
from batchrec_dagster.storage.records import save

REUSABLE = (ACTIVE, "CREATE PENDING", "CREATE IN_PROGRESS")
# The runs of a schedule do not all reach the training at the same minute of the day. So a model is
# trained again this long before its age reaches the number of days in solution.retrain.
EARLY = timedelta(hours=6)


@dataclass(frozen=True)
class SolutionVersionTrainer:
    """A trainer of an asset's solution version, which reuses an earlier version if possible."""

    step: StepContext
    asset: str
    data_version: str
    force: bool
    """Whether this run trains in any case, even if it could reuse a version."""
    is_refused: Callable[[ModelRecord], bool]
    """A function that says whether the quality gate refuses the lists of a model."""

    @property
    def training(self) -> Training:
        """The recipe and its parameters."""
        return self.step.pipeline.trainings[self.asset]

    @property
    def stem(self) -> str:
        """The prefix of the names of solution versions that are trained on the current data."""
        force_run = self.step.run.root_id if self.force else None
        return build_version_stem(
            self.step.pipeline.name, self.data_version, self.training.recipe, force_run
        )

    def find_reusable_version(self, group: str, group_name: str) -> Description | None:
        """Return the solution version to reuse; None if a new one must be trained.

        group, group_name: the ARN and the name of the dataset group.
        """
        name = self._name_solution(group_name)
        for solution in self.step.resources.list(SOLUTION, datasetGroupArn=group):
            if solution["name"] == name:
                newest = self._find_newest(str(solution[SOLUTION.arn]))
                return newest if newest is not None and self._is_reusable(newest) else None
        return None

    def start(self, dataset: DatasetRecord) -> StartedResource:
        """Return the solution version to reuse, or start the training of a new one."""
        reusable = self.find_reusable_version(dataset.dataset_group_arn, dataset.dataset_group_name)
        if reusable is not None:
            return StartedResource(reusable[SOLUTION_VERSION.arn], created=False)
        resources, training = self.step.resources, self.training
        solution = resources.find_or_create(
            SOLUTION,
            self._name_solution(dataset.dataset_group_name),
            {
                "datasetGroupArn": dataset.dataset_group_arn,
                "recipeArn": build_recipe_arn(training.recipe, resources.client.meta.partition),
                # Without this setting, Personalize trains and bills a version every seven days.
                "performAutoTraining": False,
                "solutionConfig": build_solution_config(training.parameters),
            },
            datasetGroupArn=dataset.dataset_group_arn,
        ).arn
        return resources.start(
            SOLUTION_VERSION,
            self.stem,
            lambda name: {"solutionArn": solution},
            self._has_model,
            solutionArn=solution,
        )

    def _name_solution(self, group_name: str) -> str:
        return build_solution_name(group_name, self.training.recipe, self.training.parameters)

    def _has_model(self, version: Description) -> bool:
        return has_model(self.step.resources, str(version[SOLUTION_VERSION.arn]))

    def _is_reusable(self, version: Description) -> bool:
        """Return whether the version was trained on the current data, or may serve newer data."""
        if version["name"].startswith(f"{self.stem}-"):
            return True
        return not self.force and self._is_young_enough(version)

    def _find_newest(self, solution: str) -> Description | None:
        """Return the newest solution version that the pipeline trained and that has not failed.

        None if there is no such version, or if its model has expired: then a new version is
        trained.

        solution: the ARN of the solution.
        """
        versions = sorted(
            self.step.resources.list(SOLUTION_VERSION, solutionArn=solution),
            key=lambda version: version["creationDateTime"],
        )
        for version in reversed(versions):
            if version["status"] not in FAILED:
                arn = version[SOLUTION_VERSION.arn]
                description = self.step.resources.describe_when_shown(SOLUTION_VERSION, arn)
                # A version from the console, an automatic training or an UPDATE has another name.
                if description["name"].startswith(f"{self.step.pipeline.name}-"):
                    return description if self._has_model(description) else None
        return None

    def _is_young_enough(self, version: Description) -> bool:
        """Return whether solution.retrain lets this version serve newer data."""
        days = self.step.pipeline.solution.retrain.every_days
        if days is None or version["status"] not in REUSABLE:
            return False
        if now() - version["creationDateTime"] >= timedelta(days) - EARLY:
            return False
        model = read_model(self.step.files, self.asset)
        if model is None or model.solution_version_arn != version[SOLUTION_VERSION.arn]:
            # A run was killed after it started this training, so there is no record of it yet.
            return True
        if model.made_of["interactions"] != fingerprint(self.step.pipeline.interactions):
            return False
        if self.asset != "solution_version":
            return True
        # If the gate refuses the model's lists, the model is trained again on the new data.
        return not self.is_refused(model)


@dataclass(frozen=True)
class TrainingResult:
    """The result of the step: a trained or reused model, and a report of the run's work."""

    record: ModelRecord
    version: ReadyResource
    outcome: str
    cost: list[Cost]
    checks: list[Finding]

    @property
    def tested(self) -> int | None:
        """The number of users that the metrics were measured on; None if it is not known."""
        return None if self.record.groups is None else self.record.groups.tested


def train(
    step: StepContext,
    asset: str,
    dataset: DatasetRecord,
    is_refused: Callable[[ModelRecord], bool],
    *,
    force: bool,
) -> TrainingResult:
    """Train the asset's model or reuse an earlier one, and store its record.

    is_refused: a function that says whether the quality gate refuses the lists of a model.
    force: whether to train in any case.

    Raises Refused, UserError, PersonalizeError.
    """
    step = step.for_data(dataset.version)
    resources = step.resources
    trainer = SolutionVersionTrainer(step, asset, dataset.version, force, is_refused)
    recipe = trainer.training.recipe
    is_of_lists = asset == "solution_version"
    success_checks = check_success_known(step) if is_of_lists else []
    # The check comes before the training, because a training costs money.
    require_passed(success_checks)

    def find_obstacle() -> str | None:
        costs_again = estimate_trainings(step, [recipe])
        return find_restart_obstacle(step, read_estimate(step, costs_again), costs_again)

    [version] = resources.start_and_wait(
        SOLUTION_VERSION, lambda: [trainer.start(dataset)], find_obstacle
    )
    success = step.pipeline.solution.success if is_of_lists else []
    record = _make_record(step, dataset, version, success)
    if is_of_lists:
        record = _add_popularity(step, record)
    outcome = version.describe_work("trained")
    if record.on_earlier_data:
        days, day = step.pipeline.solution.retrain.every_days, f"{record.trained_at}"[:10]
        outcome = f"kept: trained {day} on earlier data; solution.retrain: {days} days"
    resources.log.debug(f"{recipe} on data {dataset.version}: {outcome}")
    if version.created:
        resources.log.debug(f"{version.arn}: trained in {version.seconds:.1f} s")
    costs = [price_training(step, recipe, version)] if version.is_new else []
    paid = {"root_run": step.run.root_id, "cost_usd": add_payment(step, asset, costs)}
    record = record.model_copy(update=paid)
    save(step.storage.store, step.files.record_uri(asset), record)
    return TrainingResult(record, version, outcome, costs, success_checks)


def _make_record(
    step: StepContext,
    dataset: DatasetRecord,
    version: ReadyResource,
    success: Sequence[str],
) -> ModelRecord:
    """Return the record of the trained version, with its metrics.

    success: the only types of events that the metrics should count; empty for all types.
    """
    created_at = version.description["creationDateTime"].astimezone(UTC)
    hours = version.description.get("trainingHours", 0.0)
    client, on_aws = step.resources.client, step.resources.on_aws
    answer = get_solution_metrics(client, version.arn, () if on_aws else success)
    added = read_header(answer)
    return ModelRecord(
        made_of={
            "data": read_data_version(step, version.description),
            "interactions": fingerprint(step.pipeline.interactions),
        },
        # Batch inference reads the imported data, so the version must change with the data too.
        version=f"{version.arn.rpartition('/')[2]}-{dataset.version}",
        solution_version_arn=version.arn,
        dataset_group_arn=dataset.dataset_group_arn,
        dataset_group_name=dataset.dataset_group_name,
        data_version=dataset.version,
        trained_at=created_at.replace(microsecond=0),
        # The next run estimates its cost with these hours.
        training_hours=hours if on_aws else None,
        # A metric that is NaN would pass every limit of the gate.
        metrics={
            name: value
            for name, value in sorted(answer["metrics"].items())
            if not math.isnan(value)
        },
        engine=name_engine(answer, client.meta.endpoint_url, on_aws=on_aws),
        groups=added.get("groups"),
        # Only the embedded engine can count only some types of events.
        success=tuple(added.get("success", ())),
    )


def _add_popularity(step: StepContext, record: ModelRecord) -> ModelRecord:
    """Return the record with the NDCG@25 of popular items added. Raises UserError.

    The NDCG@25 is measured again only if the model or the settings of popularity have changed.
    """
    # Imported here, because it needs NumPy.
    from batchrec_dagster.steps.model.measure_popularity import measure_popularity

    pipeline = step.pipeline
    settings = fingerprint(*pipeline.popularity_settings, record.success)
    last_record = read_model(step.files, "solution_version")
    is_measured = (
        last_record is not None
        and last_record.solution_version_arn == record.solution_version_arn
        and last_record.made_of.get("popularity") == settings
    )
    if last_record is not None and is_measured:
        popularity = last_record.measured_popularity
    else:
        with step.storage.local_file(step.files.interactions) as path:
            popularity = measure_popularity(
                scan_interactions(path),
                pipeline.popularity.days,
                pipeline.solution.success,
                # The model's metrics count these events, so the measurements can be compared.
                counted=record.success,
            )
    made_of = {**record.made_of, "popularity": settings}
    return record.model_copy(update={"measured_popularity": popularity, "made_of": made_of})


def read_data_version(step: StepContext, version: Description) -> str:
    """Return the first digits of the version of the data that a solution version was trained on.

    The digits are part of the solution version's name.
    """
    return str(version["name"]).removeprefix(f"{step.pipeline.name}-")[:DATA_DIGITS]


def now() -> datetime:
    """Return the current time, which a version's creationDateTime is compared with."""
    return datetime.now(UTC)


def find_recipes_to_train(
    step: StepContext,
    group: ReadyResource,
    data_version: str,
    is_refused: Callable[[ModelRecord], bool],
    *,
    forced: Collection[str],
) -> list[str]:
    """Return the recipes that this run will train in the dataset group.

    Each asset makes the same decision before it trains.

    data_version: the version of the data to train on.
    is_refused: a function that says whether the quality gate refuses the lists of a model.
    forced: the assets that train in any case.
    """
    recipes_to_train = []
    for asset, training in step.pipeline.trainings.items():
        trainer = SolutionVersionTrainer(step, asset, data_version, asset in forced, is_refused)
        if trainer.find_reusable_version(group.arn, group.description["name"]) is None:
            recipes_to_train.append(training.recipe)
    return recipes_to_train
