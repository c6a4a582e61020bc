"""solution_version and segment_solution_version: models of what was imported, with metrics."""

import time
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.personalize.ensure import ACTIVE, SOLUTION, SOLUTION_VERSION, Ensure, Started
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION, recipe_arn
from batchrec_dagster.personalize.resource import PersonalizeResource
from batchrec_dagster.pipeline.assets.new_rows import FULL, UPDATE
from batchrec_dagster.pipeline.exclusive_step import alone
from batchrec_dagster.pipeline.ui import MODEL, dataset_group, described, preview, table
from batchrec_dagster.steps.batch_jobs import lasted, outcome, solution_config, solution_name, stem
from batchrec_dagster.steps.cost import told, trainings_cost

CODE_VERSION = "1"


class TrainingConfig(dg.Config):
    """Told to one run, from the Launchpad or the command line."""

    train_afresh: bool = Field(
        default=False, description="Train a new solution version even if nothing has changed."
    )


def told_to_train_afresh(pipeline: Pipeline, run: dg.DagsterRun) -> list[str]:
    """The assets that the run is told to train afresh."""
    ops: Any = run.run_config.get("ops") or {}
    told = {
        asset: (ops.get(f"{pipeline.name}__{asset}") or {}).get("config") or {}
        for asset in ("solution_version", "segment_solution_version")
    }
    return [asset for asset, config in told.items() if config.get("train_afresh")]


def solution_version(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    solution = pipeline.solution

    @dg.asset(
        **described(
            pipeline,
            description="The trained model, and how well it does: it has learnt by the recipe"
            f" {solution.recipe} from what was imported, and was tested on a part that it had not"
            " seen. What has not changed is not trained on again.",
            kinds={"personalize"},
            stage=MODEL,
            storage_key=pipeline.places.record("solution_version"),
            code_version=f"{CODE_VERSION}-{fingerprint(solution)}",
            io_manager="record_io",
        ),
    )
    @alone(pipeline)
    def solution_version(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: dict[str, Any],
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        return _trained(
            pipeline, context, config, personalize_dataset, personalize, solution.recipes
        )

    return solution_version


def segment_solution_version(pipeline: Pipeline, segments: Segments) -> dg.AssetsDefinition:
    """The asset."""

    @dg.asset(
        **described(
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
    @alone(pipeline)
    def segment_solution_version(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        personalize_dataset: dict[str, Any],
        personalize: PersonalizeResource,
    ) -> dg.MaterializeResult[dict[str, Any]]:
        recipes: dict[str, dict[str, str]] = {segments.recipe: {}}
        return _trained(pipeline, context, config, personalize_dataset, personalize, recipes)

    return segment_solution_version


def _trained(
    pipeline: Pipeline,
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    dataset: dict[str, Any],
    personalize: PersonalizeResource,
    recipes: dict[str, dict[str, str]],
) -> dg.MaterializeResult[dict[str, Any]]:
    """Trains the first recipe, with its hyperparameters, and beside it popularity to compare with
    where that is the second."""
    started = time.monotonic()
    recipe, hyperparameters = next(iter(recipes.items()))
    version = dataset["data_version"]
    ensure = personalize.ensure(context.log, {**pipeline.tags, "batchrec:data-version": version})
    name = stem(pipeline.name, version, context, afresh=config.train_afresh)
    # Where not every row is of a full import, what is new is learnt by the recipe that can.
    update = dataset.get("training_mode") == UPDATE and not config.train_afresh
    updated = stem(f"{pipeline.name}-new", version, context, afresh=False) if update else None
    versions = ensure.all_ready(
        SOLUTION_VERSION,
        [
            _start(ensure, dataset, name, updated if of == USER_PERSONALIZATION else None, of, by)
            for of, by in recipes.items()
        ],
    )
    trained, *popularity = versions
    done = outcome(trained, "trained")
    context.log.info(f"{recipe} on data {version}: {done}")
    context.log.info(f"{trained.arn}: trained in {lasted(trained):.1f} s")
    metrics = _metrics(personalize, trained.arn)
    baseline = _metrics(personalize, popularity[0].arn) if popularity else {}
    record = {
        "solution_version_arn": trained.arn,
        "dataset_group_arn": dataset["dataset_group_arn"],
        "dataset_group_name": dataset["dataset_group_name"],
        "data_version": version,
    }
    if personalize.on_aws:
        # What the next run's estimate goes by.
        record["training_hours"] = trained.description.get("trainingHours", 0.0)
    created = {of: one for of, one in zip(recipes, versions, strict=True) if one.created}
    costs = trainings_cost(pipeline, personalize, created)
    return dg.MaterializeResult(
        value={**record, "metrics": metrics, "popularity_metrics": baseline},
        data_version=dg.DataVersion(trained.arn.rpartition("/")[2]),
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
            "training_mode": trained.description.get("trainingMode", FULL),
            "status": trained.description["status"],
            "outcome": done,
            "training_hours": trained.description.get("trainingHours", 0.0),
            "training_seconds": lasted(trained),
            **told("cost_usd", costs, personalize),
            "seconds": time.monotonic() - started,
            **_short(metrics),
            **{f"popularity_{key}": value for key, value in _short(baseline).items()},
        },
    )


def _start(
    ensure: Ensure,
    dataset: dict[str, Any],
    name_stem: str,
    updated_stem: str | None,
    recipe: str,
    hyperparameters: dict[str, str],
) -> Started:
    """Start, or find, a solution version of the recipe on the imported data: one that goes on from
    the last, where `updated_stem` names it and there is one."""
    group = dataset["dataset_group_arn"]
    solution = ensure.named(
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
    create = {"solutionArn": solution}
    if updated_stem is not None and any(
        version["status"] == ACTIVE
        for version in ensure.list(SOLUTION_VERSION, solutionArn=solution)
    ):
        name_stem, create = updated_stem, {**create, "trainingMode": UPDATE}
    return ensure.start_numbered(
        SOLUTION_VERSION, name_stem, lambda name: create, solutionArn=solution
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
