"""solution_version and segment_solution_version: models of what was imported, with metrics."""

import time
from datetime import UTC
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.personalize.ensure import SOLUTION_VERSION
from batchrec_dagster.pipeline.exclusive_step import exclusive_step
from batchrec_dagster.pipeline.resources import PersonalizeResource
from batchrec_dagster.pipeline.ui import MODEL, asset_args, dataset_group, preview, table
from batchrec_dagster.steps.batch_jobs import lasted, outcome, stem
from batchrec_dagster.steps.cost import cost_metadata, trainings_cost
from batchrec_dagster.steps.training import Trainer, trained_by, trained_on

CODE_VERSION = "1"


class TrainingConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    force_train: bool = Field(
        default=False, description="Train a new solution version even if nothing has changed."
    )


def solution_version(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    solution = pipeline.solution

    @dg.asset(
        **asset_args(
            pipeline,
            description="The trained model, and how well it does: it has learnt by the recipe"
            f" {solution.recipe} from what was imported, and was tested on a part that it had not"
            f" seen. {_when(pipeline)}",
            kinds={"personalize"},
            stage=MODEL,
            storage_key=pipeline.places.record("solution_version"),
            code_version=f"{CODE_VERSION}-{fingerprint(solution)}",
            io_manager="record_io",
        ),
    )
    @exclusive_step(pipeline)
    def solution_version(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: dict[str, Any],
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        return _trained(pipeline, context, config, personalize_dataset, personalize)

    return solution_version


def segment_solution_version(pipeline: Pipeline, segments: Segments) -> dg.AssetsDefinition:
    """The asset."""

    @dg.asset(
        **asset_args(
            pipeline,
            description="The trained model that tells which users belong to an item, and its"
            f" metrics: it has learnt by the recipe {segments.recipe} from what was imported.",
            kinds={"personalize"},
            stage=MODEL,
            storage_key=pipeline.places.record("segment_solution_version"),
            code_version=f"{CODE_VERSION}-{segments.recipe}",
            io_manager="record_io",
        ),
    )
    @exclusive_step(pipeline)
    def segment_solution_version(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: dict[str, Any],
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        return _trained(pipeline, context, config, personalize_dataset, personalize)

    return segment_solution_version


def _when(pipeline: Pipeline) -> str:
    days = pipeline.solution.retrain.every_days
    if days is None:
        return "It is trained again when the data have changed."
    return f"It is trained again when the data have changed and it is {days} days old."


def _trained(
    pipeline: Pipeline,
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    dataset: dict[str, Any],
    personalize: PersonalizeResource,
) -> dg.MaterializeResult[dict[str, Any]]:
    """Train what the asset is for, or reuse the last model; the record and what the UI shows."""
    started = time.monotonic()
    asset, version = context.asset_key.path[-1], dataset["data_version"]
    recipes = trained_by(pipeline)[asset]
    recipe, hyperparameters = next(iter(recipes.items()))
    ensure = personalize.ensure(context.log, {**pipeline.tags, "batchrec:data-version": version})
    name = stem(pipeline.name, version, context, afresh=config.force_train)
    trainer = Trainer(
        pipeline, asset, recipes, name, config.force_train, ensure, personalize.storage
    )
    versions = ensure.all_ready(SOLUTION_VERSION, trainer.start(dataset))
    trained, *popularity = versions
    created_at = trained.description["creationDateTime"].astimezone(UTC)
    data = trained_on(pipeline, trained.description)
    done = outcome(trained, "trained")
    if not version.startswith(data):
        days = pipeline.solution.retrain.every_days
        done = f"kept: trained {created_at:%Y-%m-%d} on earlier data; solution.retrain: {days} days"
    context.log.info(f"{recipe} on data {version}: {done}")
    context.log.info(f"{trained.arn}: trained in {lasted(trained):.1f} s")
    metrics = _metrics(personalize, trained.arn)
    baseline = _metrics(personalize, popularity[0].arn) if popularity else {}
    record = {
        "solution_version_arn": trained.arn,
        "dataset_group_arn": dataset["dataset_group_arn"],
        "dataset_group_name": dataset["dataset_group_name"],
        "data_version": version,
        "trained_on": data,
        "trained_at": created_at.isoformat(timespec="seconds"),
        "trained_with": fingerprint(pipeline.interactions),
    }
    if personalize.on_aws:
        # What the next run's estimate goes by.
        record["training_hours"] = trained.description.get("trainingHours", 0.0)
    created = {of: one for of, one in zip(recipes, versions, strict=True) if one.created}
    costs = trainings_cost(pipeline, personalize.storage, created, on_aws=personalize.on_aws)
    return dg.MaterializeResult(
        value={**record, "metrics": metrics, "popularity_metrics": baseline},
        # Lists are inferred with what was imported, so that they follow the data too.
        data_version=dg.DataVersion(f"{trained.arn.rpartition('/')[2]}-{version}"),
        metadata={
            "preview": preview(
                f"The recipe `{recipe}`: {done}. Metrics go from 0 to 1, more is better.",
                _compared(_short(metrics), _short(baseline)),
            ),
            "solution_version_arn": trained.arn,
            "solution_arn": trained.description["solutionArn"],
            **dataset_group(personalize, dataset["dataset_group_arn"]),
            "recipe": recipe,
            "hyperparameters": hyperparameters,
            "status": trained.description["status"],
            "outcome": done,
            "data_version": version,
            "trained_on": data,
            "trained_at": record["trained_at"],
            "training_hours": trained.description.get("trainingHours", 0.0),
            "training_seconds": lasted(trained),
            **cost_metadata("cost_usd", costs, on_aws=personalize.on_aws),
            "seconds": time.monotonic() - started,
            **_short(metrics),
            **{f"popularity_{key}": value for key, value in _short(baseline).items()},
        },
    )


def _metrics(personalize: PersonalizeResource, solution_version_arn: str) -> dict[str, float]:
    answer = personalize.client.get_solution_metrics(solutionVersionArn=solution_version_arn)
    return dict(sorted(answer["metrics"].items()))


def _compared(metrics: dict[str, float], baseline: dict[str, float]) -> str:
    """The metrics as a table, popularity's beside them where there are any."""
    if not baseline:
        return table(["metric", "value"], metrics.items())
    return table(
        ["metric", "this model", "most popular items"],
        [[name, value, baseline.get(name)] for name, value in metrics.items()],
    )


def _short(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics by the short names that fit into the UI's table; the record has Personalize's."""
    short = {"normalized_discounted_cumulative_gain": "ndcg", "mean_reciprocal_rank": "mrr"}
    named = {}
    for key, value in metrics.items():
        name, at, k = key.partition("_at_")
        named[short.get(name, name) + at + k] = value
    return named
