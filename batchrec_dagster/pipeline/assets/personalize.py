"""personalize_dataset and solution_version: the interactions imported, a model trained on them."""

import time
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.formats.interactions import interactions_schema
from batchrec_dagster.formats.recipes import POPULARITY_COUNT, recipe_arn
from batchrec_dagster.pipeline.assets.specs import described
from batchrec_dagster.pipeline.settings import Pipeline, fingerprint
from batchrec_dagster.resources import PersonalizeResource, StorageResource
from batchrec_dagster.resources.ensure import Ensure, Ensured, Started
from batchrec_dagster.resources.kinds import (
    DATASET,
    DATASET_GROUP,
    IMPORT_JOB,
    SCHEMA,
    SOLUTION,
    SOLUTION_VERSION,
)

CODE_VERSION = "1"


class ImportConfig(dg.Config):
    """Told to one run, from the Launchpad or the command line."""

    import_afresh: bool = Field(
        default=False, description="Import the interactions even if they have not changed."
    )


class TrainingConfig(dg.Config):
    """Told to one run, from the Launchpad or the command line."""

    train_afresh: bool = Field(
        default=False, description="Train a new solution version even if nothing has changed."
    )


def personalize_dataset(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    schema = interactions_schema(event_type=pipeline.recommendations.exclude_seen)
    # A dataset keeps its schema, so that another schema means another dataset group.
    group_name = f"{pipeline.name}-{fingerprint(schema)[:8]}"

    @dg.asset(
        **described(
            pipeline,
            description="The interactions in Amazon Personalize: dataset group, schema, dataset"
            " and import job. Interactions that have not changed are not imported again.",
            kinds={"personalize"},
            storage_key=pipeline.places.record("personalize_dataset"),
            code_version=f"{CODE_VERSION}-{fingerprint(schema)}",
            io_manager="record_io",
        ),
        deps=[dg.AssetKey([pipeline.name, "interactions"])],
    )
    def personalize_dataset(
        context: dg.AssetExecutionContext,
        config: ImportConfig,
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        started = time.monotonic()
        uri = storage.uri(pipeline.places.interactions)
        version = storage.version(uri)
        ensure = personalize.ensure(
            context.log, {**pipeline.tags, "batchrec:data-version": version}
        )
        group = ensure.named(DATASET_GROUP, group_name, {}).arn
        schema_arn = ensure.named(SCHEMA, f"{group_name}-interactions", {"schema": schema}).arn
        dataset = ensure.named(
            DATASET,
            f"{group_name}-interactions",
            {"datasetGroupArn": group, "datasetType": "INTERACTIONS", "schemaArn": schema_arn},
            datasetGroupArn=group,
        ).arn
        job = ensure.ready(
            IMPORT_JOB,
            ensure.start_numbered(
                IMPORT_JOB,
                _stem(pipeline, version, context, afresh=config.import_afresh),
                lambda name: {
                    "datasetArn": dataset,
                    "dataSource": {"dataLocation": uri},
                    "roleArn": personalize.role_arn,
                    "importMode": "FULL",
                },
                datasetArn=dataset,
            ),
        )
        outcome = _outcome(job, "imported")
        context.log.info(f"interactions {version}: {outcome}")
        record = {
            "dataset_group_arn": group,
            "dataset_group_name": group_name,
            "dataset_arn": dataset,
            "dataset_import_job_arn": job.arn,
            "data_version": version,
        }
        return dg.MaterializeResult(
            value=record,
            data_version=dg.DataVersion(version),
            metadata={
                **record,
                "schema_arn": schema_arn,
                "status": job.description["status"],
                "outcome": outcome,
                "seconds": time.monotonic() - started,
            },
        )

    return personalize_dataset


def solution_version(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    solution = pipeline.solution
    hyperparameters = solution.algorithm_hyperparameters

    @dg.asset(
        **described(
            pipeline,
            description=f"A model of recipe {solution.recipe}, trained on the imported"
            " interactions, with its metrics. What has not changed is not trained on again.",
            kinds={"personalize"},
            storage_key=pipeline.places.record("solution_version"),
            code_version=f"{CODE_VERSION}-{fingerprint(solution)}",
            io_manager="record_io",
        ),
    )
    def solution_version(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: dict[str, Any],
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        started = time.monotonic()
        version = personalize_dataset["data_version"]
        ensure = personalize.ensure(
            context.log, {**pipeline.tags, "batchrec:data-version": version}
        )
        stem = _stem(pipeline, version, context, afresh=config.train_afresh)
        recipes = {solution.recipe: hyperparameters}
        if solution.compare_with_popularity:
            recipes.setdefault(POPULARITY_COUNT, {})
        trained, *popularity = ensure.all_ready(
            SOLUTION_VERSION,
            [_start(ensure, personalize_dataset, stem, *recipe) for recipe in recipes.items()],
        )
        outcome = _outcome(trained, "trained")
        context.log.info(f"{solution.recipe} on interactions {version}: {outcome}")
        metrics = _metrics(personalize, trained.arn)
        baseline = _metrics(personalize, popularity[0].arn) if popularity else {}
        record = {
            "solution_version_arn": trained.arn,
            "dataset_group_arn": personalize_dataset["dataset_group_arn"],
            "dataset_group_name": personalize_dataset["dataset_group_name"],
            "data_version": version,
        }
        return dg.MaterializeResult(
            value={**record, "metrics": metrics, "popularity_metrics": baseline},
            data_version=dg.DataVersion(trained.arn.rpartition("/")[2]),
            metadata={
                "solution_version_arn": trained.arn,
                "solution_arn": trained.description["solutionArn"],
                "recipe": solution.recipe,
                "hyperparameters": hyperparameters,
                "status": trained.description["status"],
                "outcome": outcome,
                "training_hours": trained.description.get("trainingHours", 0.0),
                "seconds": time.monotonic() - started,
                **_short(metrics),
                **{f"popularity_{key}": value for key, value in _short(baseline).items()},
            },
        )

    return solution_version


def _start(
    ensure: Ensure,
    dataset: dict[str, Any],
    stem: str,
    recipe: str,
    hyperparameters: dict[str, str],
) -> Started:
    """Start, or find, a solution version of the recipe on the imported data."""
    group = dataset["dataset_group_arn"]
    # A solution cannot be changed, so that other settings mean another solution.
    name = f"{dataset['dataset_group_name']}-{fingerprint(recipe, hyperparameters)[:8]}"
    solution = ensure.named(
        SOLUTION,
        name,
        {
            "datasetGroupArn": group,
            "recipeArn": recipe_arn(recipe),
            # Left to itself Personalize trains, and bills, every seven days.
            "performAutoTraining": False,
            "solutionConfig": {"algorithmHyperParameters": hyperparameters},
        },
        datasetGroupArn=group,
    ).arn
    return ensure.start_numbered(
        SOLUTION_VERSION, stem, lambda name: {"solutionArn": solution}, solutionArn=solution
    )


def _metrics(personalize: PersonalizeResource, solution_version_arn: str) -> dict[str, float]:
    answer = personalize.client.get_solution_metrics(solutionVersionArn=solution_version_arn)
    return dict(sorted(answer["metrics"].items()))


def _short(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics by the short names that fit into the UI's table; the record has Personalize's."""
    short = {"normalized_discounted_cumulative_gain": "ndcg", "mean_reciprocal_rank": "mrr"}
    named = {}
    for key, value in metrics.items():
        name, at, k = key.partition("_at_")
        named[short.get(name, name) + at + k] = value
    return named


def _stem(
    pipeline: Pipeline, version: str, context: dg.AssetExecutionContext, *, afresh: bool
) -> str:
    """What the name of a job starts with: the pipeline and the data it takes.

    Told to work afresh, a run asks for a job of its own; started again after a failure, it finds
    that one.
    """
    stem = f"{pipeline.name}-{version[:12]}"
    if not afresh:
        return stem
    return f"{stem}-{(context.run.root_run_id or context.run_id)[:8]}"


def _outcome(ensured: Ensured, done: str) -> str:
    return done if ensured.created else f"unchanged: not {done} again"
