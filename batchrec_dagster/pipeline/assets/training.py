"""The assets of the imported data and of the models.

They are personalize_dataset, solution_version, segment_solution_version and
similar_items_solution_version.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.pipeline.asset_keys import asset_key, op_name
from batchrec_dagster.pipeline.declare_asset import (
    MODEL,
    PipelineAsset,
    asset_of,
    build_budget_check,
)
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import (
    build_cost_metadata,
    build_dataset_group_link,
    to_dagster,
)
from batchrec_dagster.pipeline.run_options import is_training_forced
from batchrec_dagster.reporting.insight.measured import (
    describe_counted_events,
    describe_tested_users,
)
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.success import SUCCESS_KNOWN
from batchrec_dagster.steps.lists.publish import is_refused
from batchrec_dagster.steps.model.import_dataset import (
    DatasetImport,
    fingerprint_schemas,
    import_dataset,
    list_dataset_files,
)
from batchrec_dagster.steps.model.training import TrainingResult, train
from batchrec_dagster.steps.records import DatasetRecord

CODE_VERSION = "1"


class ImportConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    force_import: bool = Field(
        default=False, description="Import the data even if they have not changed."
    )


def personalize_dataset(pipeline: Pipeline) -> PipelineAsset:
    """Declare the asset of the data that Personalize has imported."""
    files = list_dataset_files(pipeline)

    @asset_of(
        pipeline,
        "personalize_dataset",
        description=f"The {' and '.join(file.asset for file in files)}, imported into Amazon"
        " Personalize for training: a dataset group, a schema, a dataset and an import job."
        " Unchanged data are not imported again.",
        kinds={"personalize"},
        deps=[asset_key(pipeline, file.asset) for file in files],
        on_personalize=True,
        stage=MODEL,
        storage_key=pipeline.keys.record("personalize_dataset"),
        code_version=f"{CODE_VERSION}-{fingerprint_schemas(files)}",
        io_manager="record_io",
        checks=build_budget_check(pipeline),
    )
    def personalize_dataset(
        context: dg.AssetExecutionContext, config: ImportConfig
    ) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        with step.lock("personalize_dataset"):
            dataset_import = import_dataset(
                step,
                partial(is_refused, step),
                force=config.force_import,
                forced_trainings=_find_forced_trainings(pipeline, context),
            )
        metadata = _build_import_metadata(step, dataset_import)
        return to_dagster(metadata, dataset_import.record.version, dataset_import.checks)

    return personalize_dataset


def _find_forced_trainings(pipeline: Pipeline, context: dg.AssetExecutionContext) -> set[str]:
    """Return the model assets that this run trains even if nothing has changed."""
    config = context.run.run_config
    return {
        asset
        for asset in pipeline.trainings
        if is_training_forced(config, op_name(pipeline, asset))
    }


def _build_import_metadata(step: StepContext, dataset_import: DatasetImport) -> dict[str, Any]:
    record = dataset_import.record
    return {
        **{
            "outcome" if part.file.is_interactions else f"{part.file.asset}_outcome": part.outcome
            for part in dataset_import.imports
        },
        "import_seconds": sum(part.job.seconds for part in dataset_import.imports),
        **build_cost_metadata(
            "estimated_usd", dataset_import.estimate, on_aws=step.resources.on_aws
        ),
        **build_cost_metadata("cost_usd", dataset_import.cost, on_aws=step.resources.on_aws),
        "dataset_group_arn": record.dataset_group_arn,
        "dataset_group_name": record.dataset_group_name,
        "data_version": record.version,
        **{
            f"{asset}_import_job_arn": file.import_job_arn for asset, file in record.imports.items()
        },
        **build_dataset_group_link(record.dataset_group_arn, on_aws=step.resources.on_aws),
        "dagster/uri": step.files.record_uri("personalize_dataset"),
    }


class TrainingConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    force_train: bool = Field(
        default=False, description="Train a new solution version even if nothing has changed."
    )


def solution_version(pipeline: Pipeline) -> PipelineAsset:
    """Declare the asset of the model that makes the lists."""
    solution = pipeline.solution
    description = (
        f"The model, trained with the recipe {solution.recipe} on the imported data, and its"
        f" metrics on held-out interactions. {_describe_retraining(pipeline)}"
    )
    checks = {}
    if solution.success:
        checks[SUCCESS_KNOWN] = "The interactions have events of solution.success."
    return _declare_model(pipeline, "solution_version", description, fingerprint(solution), checks)


def segment_solution_version(pipeline: Pipeline, segments: Segments) -> PipelineAsset:
    """Declare the asset of the model that makes the segments."""
    description = (
        "The model that assigns users to items, trained with the recipe"
        f" {segments.recipe} on the imported data, and its metrics."
    )
    return _declare_model(pipeline, "segment_solution_version", description, segments.recipe)


def similar_items_solution_version(pipeline: Pipeline, recipe: str) -> PipelineAsset:
    """Declare the asset of the model that finds similar items."""
    description = (
        f"The model that finds similar items, trained with the recipe {recipe} on the imported"
        f" data, and its metrics. {_describe_retraining(pipeline)}"
    )
    return _declare_model(pipeline, "similar_items_solution_version", description, recipe)


def _declare_model(
    pipeline: Pipeline,
    name: str,
    description: str,
    settings: str,
    checks: Mapping[str, str] = MappingProxyType({}),
) -> PipelineAsset:
    """Declare the asset of a model.

    settings: the part of the asset's code version that depends on the pipeline's settings.
    checks: the descriptions of the model's own checks, by name.
    """

    @asset_of(
        pipeline,
        name,
        description=description,
        kinds={"personalize"},
        inputs=["personalize_dataset"],
        on_personalize=True,
        stage=MODEL,
        storage_key=pipeline.keys.record(name),
        code_version=f"{CODE_VERSION}-{settings}",
        io_manager="record_io",
        checks=checks,
    )
    def model(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: DatasetRecord,
    ) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        with step.lock(name):
            training = train(
                step,
                name,
                personalize_dataset,
                partial(is_refused, step),
                force=config.force_train,
            )
        metadata = _build_training_metadata(step, name, training)
        return to_dagster(metadata, training.record.version, training.checks)

    return model


def _describe_retraining(pipeline: Pipeline) -> str:
    """Return when the model is trained again, in words."""
    days = pipeline.solution.retrain.every_days
    if days is None:
        return "It is trained again when the data have changed."
    return f"It is trained again when the data have changed and it is {days} days old."


def _build_training_metadata(
    step: StepContext, asset: str, training: TrainingResult
) -> dict[str, Any]:
    record, version = training.record, training.version.description
    metrics = _shorten_names(record.metrics)
    recipe, parameters = step.pipeline.trainings[asset]
    popularity = record.measured_popularity
    counted_events = describe_counted_events(
        step.pipeline.solution.success, record.success, record.engine
    )
    return {
        "outcome": training.outcome,
        "recipe": recipe,
        "engine": record.engine,
        "tested_on": describe_tested_users(training.tested),
        "counted_events": counted_events,
        "hyperparameters": dict(parameters),
        "data_version": record.data_version,
        "trained_on": record.trained_on,
        "trained_at": record.trained_at.isoformat() if record.trained_at else None,
        "training_hours": version.get("trainingHours", 0.0),
        "training_seconds": training.version.seconds,
        **metrics,
        "popularity_ndcg_at_25": popularity.ndcg if popularity is not None else None,
        "popularity_days": popularity.days if popularity is not None else None,
        **build_cost_metadata("cost_usd", training.cost, on_aws=step.resources.on_aws),
        "success": list(record.success),
        "interactions": step.pipeline.interactions.model_dump(mode="json"),
        "solution_version_arn": record.solution_version_arn,
        "solution_arn": version["solutionArn"],
        **build_dataset_group_link(record.dataset_group_arn, on_aws=step.resources.on_aws),
        "dagster/uri": step.files.record_uri(asset),
    }


def _shorten_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics under short names that fit into the UI's table."""
    short_names = {"normalized_discounted_cumulative_gain": "ndcg", "mean_reciprocal_rank": "mrr"}
    metrics_by_short_name = {}
    for key, value in metrics.items():
        name, separator, k = key.partition("_at_")
        metrics_by_short_name[short_names.get(name, name) + separator + k] = value
    return metrics_by_short_name
