"""personalize_dataset: the imported data; solution_version, segment_solution_version: models."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.recommendations import Segments
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.pipeline.declare_asset import MODEL, asset, dataset_group, preview
from batchrec_dagster.pipeline.run_step import exclusive_step, personalize_work, published, run_step
from batchrec_dagster.reporting.markdown import escape, format_table
from batchrec_dagster.reporting.verdict import describe_tested_users
from batchrec_dagster.steps.cost import cost_metadata
from batchrec_dagster.steps.import_dataset import (
    DatasetImport,
    dataset_files,
    import_dataset,
    schemas_version,
)
from batchrec_dagster.steps.records import DatasetRecord
from batchrec_dagster.steps.training import TrainingResult, train, trained_by

CODE_VERSION = "1"


class ImportConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    force_import: bool = Field(
        default=False, description="Import the data even if they have not changed."
    )


def personalize_dataset(pipeline: Pipeline) -> dg.AssetsDefinition:
    files = dataset_files(pipeline)
    budgeted = (
        {"within_budget": "The run's estimated cost is within budget.max_usd_per_run."}
        if pipeline.budget.max_usd_per_run is not None
        else {}
    )

    @asset(
        pipeline,
        description=f"The {' and '.join(file.asset for file in files)}, imported into Amazon"
        " Personalize for training: a dataset group, a schema, a dataset and an import job."
        " Unchanged data are not imported again.",
        kinds={"personalize"},
        stage=MODEL,
        storage_key=pipeline.places.record("personalize_dataset"),
        code_version=f"{CODE_VERSION}-{schemas_version(files)}",
        io_manager="record_io",
        deps=[pipeline.asset_key(file.asset) for file in files],
        checks=budgeted,
    )
    @exclusive_step(pipeline)
    def personalize_dataset(
        context: dg.AssetExecutionContext, config: ImportConfig, personalize: PersonalizeResource
    ) -> Iterator[Any]:
        imported = yield from run_step(
            lambda: import_dataset(
                personalize_work(pipeline, context, personalize),
                run=context.run.root_run_id or context.run.run_id,
                force=config.force_import,
                forced_trainings=_forced_trainings(pipeline, context),
            )
        )
        result = dg.MaterializeResult(
            value=imported.stored,
            data_version=dg.DataVersion(imported.record.data_version),
            metadata=_import_metadata(imported, personalize),
        )
        yield from published(imported.checks, result)

    return personalize_dataset


def _forced_trainings(pipeline: Pipeline, context: dg.AssetExecutionContext) -> set[str]:
    ops: Any = context.run.run_config.get("ops") or {}
    configs = {
        asset: (ops.get(pipeline.op_name(asset)) or {}).get("config") or {}
        for asset in trained_by(pipeline)
    }
    return {asset for asset, config in configs.items() if config.get("force_train")}


def _import_metadata(imported: DatasetImport, personalize: PersonalizeResource) -> dict[str, Any]:
    record = imported.record
    return {
        "preview": preview(
            f"The dataset group `{record.dataset_group_name}` has:",
            format_table(
                ["dataset", "import job", "what this run did"],
                [
                    [one.file.asset, one.job.description["jobName"], one.outcome]
                    for one in imported.imports
                ],
            ),
        ),
        **record.to_json(),
        **dataset_group(personalize, record.dataset_group_arn),
        **{
            "outcome" if one.file.is_interactions else f"{one.file.asset}_outcome": one.outcome
            for one in imported.imports
        },
        "import_seconds": sum(one.seconds for one in imported.imports),
        **cost_metadata("estimated_usd", imported.estimate, on_aws=personalize.on_aws),
        **cost_metadata("cost_usd", imported.cost, on_aws=personalize.on_aws),
    }


class TrainingConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    force_train: bool = Field(
        default=False, description="Train a new solution version even if nothing has changed."
    )


def solution_version(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset of the model that makes the lists."""
    solution = pipeline.solution
    description = (
        f"The model, trained with the recipe {solution.recipe} on the imported data, and its"
        f" metrics on held-out interactions. {_when(pipeline)}"
    )
    return _model(pipeline, "solution_version", description, fingerprint(solution))


def segment_solution_version(pipeline: Pipeline, segments: Segments) -> dg.AssetsDefinition:
    """The asset of the model that makes the segments."""
    description = (
        "The model that assigns users to items, trained with the recipe"
        f" {segments.recipe} on the imported data, and its metrics."
    )
    return _model(pipeline, "segment_solution_version", description, segments.recipe)


def _model(pipeline: Pipeline, name: str, description: str, settings: str) -> dg.AssetsDefinition:
    @asset(
        pipeline,
        name=name,
        description=description,
        kinds={"personalize"},
        stage=MODEL,
        storage_key=pipeline.places.record(name),
        code_version=f"{CODE_VERSION}-{settings}",
        io_manager="record_io",
    )
    @exclusive_step(pipeline, name)
    def model(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: dict[str, Any],
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        training = train(
            personalize_work(pipeline, context, personalize),
            name,
            DatasetRecord.from_json(personalize_dataset),
            run=context.run.root_run_id or context.run.run_id,
            force=config.force_train,
        )
        version = training.record.solution_version_arn.rpartition("/")[2]
        return dg.MaterializeResult(
            value=training.record.to_json(),
            # Batch inference uses the imported data, so lists follow the data too.
            data_version=dg.DataVersion(f"{version}-{training.record.data_version}"),
            metadata={
                **_metadata(training, personalize),
                "interactions": pipeline.interactions.model_dump(mode="json"),
            },
        )

    return model


def _when(pipeline: Pipeline) -> str:
    days = pipeline.solution.retrain.every_days
    if days is None:
        return "It is trained again when the data have changed."
    return f"It is trained again when the data have changed and it is {days} days old."


def _metadata(training: TrainingResult, personalize: PersonalizeResource) -> dict[str, Any]:
    record, version = training.record, training.version.description
    metrics, baseline = _short(record.metrics), _short(record.popularity_metrics)
    return {
        "preview": preview(
            f"The recipe `{training.recipe}`: {training.outcome}. Metrics go from 0 to 1; higher is"
            " better.",
            f"Trained and measured by {escape(record.engine)}, on"
            f" {describe_tested_users(training.tested)}.",
            _compared(metrics, baseline),
        ),
        "solution_version_arn": record.solution_version_arn,
        "solution_arn": version["solutionArn"],
        **dataset_group(personalize, record.dataset_group_arn),
        "recipe": training.recipe,
        "hyperparameters": dict(training.hyperparameters),
        "outcome": training.outcome,
        "data_version": record.data_version,
        "trained_on": record.trained_on,
        "trained_at": record.trained_at,
        "training_hours": version.get("trainingHours", 0.0),
        "training_seconds": training.seconds,
        **cost_metadata("cost_usd", training.cost, on_aws=personalize.on_aws),
        **metrics,
        **{f"popularity_{key}": value for key, value in baseline.items()},
    }


def _compared(metrics: dict[str, float], baseline: dict[str, float]) -> str:
    if not baseline:
        return format_table(["metric", "value"], metrics.items())
    return format_table(
        ["metric", "this model", "most popular items"],
        [[name, value, baseline.get(name)] for name, value in metrics.items()],
    )


def _short(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics by short names that fit into the UI's table."""
    short = {"normalized_discounted_cumulative_gain": "ndcg", "mean_reciprocal_rank": "mrr"}
    named = {}
    for key, value in metrics.items():
        name, at, k = key.partition("_at_")
        named[short.get(name, name) + at + k] = value
    return named
