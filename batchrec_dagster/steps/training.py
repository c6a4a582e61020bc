"""Trains solution versions, or reuses those that earlier runs trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.ensure import (
    ACTIVE,
    FAILED,
    Description,
    ReadyResource,
    StartedResource,
)
from batchrec_dagster.personalize.evidence import ALL
from batchrec_dagster.personalize.expired_models import has_model
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.recipes import build_recipe_arn
from batchrec_dagster.personalize.resource_kinds import SOLUTION, SOLUTION_VERSION
from batchrec_dagster.steps.batch_jobs import (
    build_name_stem,
    build_solution_config,
    build_solution_name,
    describe_outcome,
    measure_job_seconds,
)
from batchrec_dagster.steps.checks import CheckResult, require_passed
from batchrec_dagster.steps.cost import add_payment, price_trainings
from batchrec_dagster.steps.lists_declaration import describe_lists
from batchrec_dagster.steps.publishing import Publishing
from batchrec_dagster.steps.records import DatasetRecord, ModelRecord, read_model
from batchrec_dagster.steps.target_events import check_target_events_known, read_model_metrics
from batchrec_dagster.steps.work import PersonalizeWork, Work

REUSABLE = (ACTIVE, "CREATE PENDING", "CREATE IN_PROGRESS")
# Two runs of one schedule do not reach the training at the same minute. So a model counts as due
# this long before it is.
EARLY = timedelta(hours=6)


@dataclass(frozen=True)
class SolutionVersionTrainer:
    """Decides which solution versions an asset reuses, and which it trains."""

    work: PersonalizeWork
    asset: str
    data_version: str
    force_run: str | None
    """The id of a run that trains in any case; None for other runs."""

    @property
    def recipes(self) -> Mapping[str, dict[str, str]]:
        """The hyperparameters of each recipe. A second recipe is trained to compare with."""
        return self.work.pipeline.recipes_by_asset[self.asset]

    @property
    def stem(self) -> str:
        """What the names of versions trained on the current data start with."""
        return build_name_stem(self.work.pipeline.name, self.data_version, self.force_run)

    def find_reusable_versions(self, group: str, group_name: str) -> list[Description | None]:
        """For each recipe the version to reuse; None for one to train.

        group, group_name: the ARN and the name of the dataset group.
        """
        existing = {
            solution["name"]: str(solution[SOLUTION.arn])
            for solution in self.work.ensure.list(SOLUTION, datasetGroupArn=group)
        }
        names = [
            build_solution_name(group_name, recipe, hyperparameters)
            for recipe, hyperparameters in self.recipes.items()
        ]
        return self._find_reusable([existing.get(name) for name in names])

    def start(self, dataset: DatasetRecord) -> list[StartedResource]:
        """For each recipe the solution version to reuse, or one whose training starts now."""
        reusable = self.find_reusable_versions(
            dataset.dataset_group_arn, dataset.dataset_group_name
        )
        return [
            StartedResource(version[SOLUTION_VERSION.arn], created=False)
            if version is not None
            else self._start_training(dataset, recipe)
            for recipe, version in zip(self.recipes, reusable, strict=True)
        ]

    def _start_training(self, dataset: DatasetRecord, recipe: str) -> StartedResource:
        """The new version of the recipe's solution, which is created if there is none."""
        ensure, hyperparameters = self.work.ensure, self.recipes[recipe]
        solution = ensure.find_or_create(
            SOLUTION,
            build_solution_name(dataset.dataset_group_name, recipe, hyperparameters),
            {
                "datasetGroupArn": dataset.dataset_group_arn,
                "recipeArn": build_recipe_arn(recipe, ensure.client.meta.partition),
                # Left to itself Personalize trains, and bills, every seven days.
                "performAutoTraining": False,
                "solutionConfig": build_solution_config(hyperparameters),
            },
            datasetGroupArn=dataset.dataset_group_arn,
        ).arn
        return ensure.start_numbered(
            SOLUTION_VERSION,
            self.stem,
            lambda name: {"solutionArn": solution},
            self._has_model,
            solutionArn=solution,
        )

    def _has_model(self, version: Description) -> bool:
        return has_model(self.work.ensure, str(version[SOLUTION_VERSION.arn]))

    def _find_reusable(self, solutions: Sequence[str | None]) -> list[Description | None]:
        """For each recipe the version to reuse; None for one to train.

        solutions: the ARN of each recipe's solution; None where there is none yet.
        """
        newest = [self._find_newest(arn) if arn else None for arn in solutions]
        model = newest[0]
        is_current = model is not None and self._is_current(model)
        if model is None or self.force_run or not (is_current or self._is_young_enough(model)):
            return [
                version if version and self._is_current(version) else None for version in newest
            ]
        return [
            version if version and self._is_comparable(version, model) else None
            for version in newest
        ]

    def _is_comparable(self, version: Description, model: Description) -> bool:
        """Whether it was trained on the model's data or, where that run was killed, later."""
        if read_data_version(self.work, version) == read_data_version(self.work, model):
            return True
        return bool(version["creationDateTime"] >= model["creationDateTime"])

    def _is_current(self, version: Description) -> bool:
        return bool(version["name"].startswith(f"{self.stem}-"))

    def _find_newest(self, solution: str) -> Description | None:
        """The newest version that a pipeline trained and that has not failed.

        None if there is none, or if its model was given up: then it is trained again.
        """
        versions = sorted(
            self.work.ensure.list(SOLUTION_VERSION, solutionArn=solution),
            key=lambda version: version["creationDateTime"],
        )
        for version in reversed(versions):
            if version["status"] not in FAILED:
                arn = version[SOLUTION_VERSION.arn]
                description = self.work.ensure.describe_when_shown(SOLUTION_VERSION, arn)
                # A training in the console, an automatic one or an UPDATE has no name of ours.
                if description["name"].startswith(f"{self.work.pipeline.name}-"):
                    return description if self._has_model(description) else None
        return None

    def _is_young_enough(self, version: Description) -> bool:
        """Whether solution.retrain lets this version serve newer data."""
        days = self.work.pipeline.solution.retrain.every_days
        if days is None or version["status"] not in REUSABLE:
            return False
        if now() - version["creationDateTime"] >= timedelta(days) - EARLY:
            return False
        model = read_model(self.work.files, self.asset)
        if model is None or model.solution_version_arn != version[SOLUTION_VERSION.arn]:
            # A run was killed after it had started this training.
            return True
        if model.trained_with != fingerprint(self.work.pipeline.interactions):
            return False
        if self.asset != "solution_version":
            return True
        # New data replace a model whose lists may not be published.
        publishing = Publishing(self.work, describe_lists(self.work.pipeline), model)
        return publishing.gate(skip=False).passed


@dataclass(frozen=True)
class TrainingResult:
    """A trained or reused model, and what this run did."""

    record: ModelRecord
    version: ReadyResource
    recipe: str
    hyperparameters: Mapping[str, str]
    outcome: str
    seconds: float
    cost: list[Cost]
    checks: list[CheckResult]

    @property
    def tested(self) -> int | None:
        """How many users the metrics were measured on, where that is known."""
        users = self.record.evidence.get(f"{ALL}/users")
        return None if users is None else int(users)


def train(
    work: PersonalizeWork, asset: str, dataset: DatasetRecord, *, run: str, force: bool
) -> TrainingResult:
    """Train the asset's model, or reuse the last one.

    run: the id of the first of a run and its retries.
    force: whether to train in any case.
    Raises FailedChecksError, StorageError, PersonalizeError.
    """
    work = work.for_data(dataset.data_version)
    ensure = work.ensure
    trainer = SolutionVersionTrainer(work, asset, dataset.data_version, run if force else None)
    recipes = trainer.recipes
    recipe, hyperparameters = next(iter(recipes.items()))
    is_of_lists = asset == "solution_version"
    target_checks = check_target_events_known(work) if is_of_lists else []
    # Before a training is paid for.
    require_passed(target_checks)
    versions = ensure.start_and_wait(SOLUTION_VERSION, lambda: trainer.start(dataset))
    version, *popularity = versions
    target_events = work.pipeline.solution.target_events if is_of_lists else []
    record = _make_record(work, dataset, version, popularity, target_events)
    if is_of_lists and work.pipeline.solution.compare_with_popularity:
        record = _add_popularity(work, record)
    outcome = describe_outcome(version, "trained")
    if record.on_earlier_data:
        days, day = work.pipeline.solution.retrain.every_days, f"{record.trained_at}"[:10]
        outcome = f"kept: trained {day} on earlier data; solution.retrain: {days} days"
    ensure.log.debug(f"{recipe} on data {dataset.data_version}: {outcome}")
    if version.created:
        ensure.log.debug(f"{version.arn}: trained in {measure_job_seconds(version):.1f} s")
    trained = {
        name: trained_version
        for name, trained_version in zip(recipes, versions, strict=True)
        if trained_version.created
    }
    costs = price_trainings(work, trained, on_aws=ensure.on_aws)
    payment = add_payment(work, asset, run, costs)
    record = replace(record, root_run=payment.root_run, cost_usd=payment.cost_usd)
    seconds = measure_job_seconds(version)
    return TrainingResult(
        record, version, recipe, hyperparameters, outcome, seconds, costs, target_checks
    )


def _make_record(
    work: PersonalizeWork,
    dataset: DatasetRecord,
    version: ReadyResource,
    popularity: Sequence[ReadyResource],
    target_events: Sequence[str],
) -> ModelRecord:
    created_at = version.description["creationDateTime"].astimezone(UTC)
    hours = version.description.get("trainingHours", 0.0)
    popularity_arn = popularity[0].arn if popularity else None
    measured = read_model_metrics(work.ensure, version.arn, popularity_arn, target_events)
    return ModelRecord(
        version.arn,
        dataset.dataset_group_arn,
        dataset.dataset_group_name,
        dataset.data_version,
        trained_on=read_data_version(work, version.description),
        trained_at=created_at.isoformat(timespec="seconds"),
        trained_with=fingerprint(work.pipeline.interactions),
        # The next run's estimate uses it.
        training_hours=hours if work.ensure.on_aws else None,
        metrics=measured.metrics,
        engine=measured.engine,
        evidence=measured.evidence,
        popularity_metrics=measured.popularity_metrics,
        popularity_version_arn=popularity_arn,
        target_events=measured.target_events or None,
        all_events_metrics=measured.all_events_metrics,
    )


def _add_popularity(work: PersonalizeWork, record: ModelRecord) -> ModelRecord:
    """The record with what recent popular items reach, measured once for each model.

    Raises StorageError.
    """
    from batchrec_dagster.steps.measure_popularity import measure_popularity  # NumPy

    pipeline = work.pipeline
    # They are compared with the metrics of the model, which may count all events, as on AWS.
    target_events = pipeline.solution.target_event_names if record.target_events else []
    excludes_seen = pipeline.excludes_seen
    settings = fingerprint(pipeline.popularity, excludes_seen, target_events)
    last_record = read_model(work.files, "solution_version")
    is_measured = (
        last_record is not None
        and last_record.solution_version_arn == record.solution_version_arn
        and last_record.popularity_measured_with == settings
    )
    if last_record is not None and is_measured:
        measured = last_record.recent_popularity
    else:
        with work.storage.local_file(work.files.interactions) as path:
            popularity = measure_popularity(
                scan_interactions(path),
                pipeline.popularity,
                exclude_seen=excludes_seen,
                target_events=target_events,
            )
        measured = popularity.to_json() if popularity is not None else {}
    return replace(record, recent_popularity=measured, popularity_measured_with=settings)


def read_data_version(work: Work, version: Description) -> str:
    """The first 12 digits of the version of the data that it was trained on.

    They are part of a solution version's name.
    """
    return str(version["name"]).removeprefix(f"{work.pipeline.name}-")[:12]


def now() -> datetime:
    """The time that a version's creationDateTime is compared with."""
    return datetime.now(UTC)


def list_recipes(pipeline: Pipeline) -> list[str]:
    """Every recipe that the pipeline trains."""
    return [recipe for recipes in pipeline.recipes_by_asset.values() for recipe in recipes]


def find_recipes_to_train(
    work: PersonalizeWork,
    group: ReadyResource,
    data_version: str,
    *,
    run: str,
    forced: Collection[str],
) -> list[str]:
    """The recipes that this run will train in the dataset group on data of this version.

    The rules are those of the assets that train them.

    forced: the assets that train in any case.
    """
    recipes_to_train = []
    for asset, recipes in work.pipeline.recipes_by_asset.items():
        trainer = SolutionVersionTrainer(
            work, asset, data_version, run if asset in forced else None
        )
        reusable = trainer.find_reusable_versions(group.arn, group.description["name"])
        recipes_to_train += [
            recipe for recipe, version in zip(recipes, reusable, strict=True) if version is None
        ]
    return recipes_to_train
