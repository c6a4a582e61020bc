"""personalize_dataset: the interactions, and the items where declared, imported."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.ensure import (
    DATASET_GROUP,
    IMPORT_JOB,
    Description,
    Started,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS
from batchrec_dagster.pipeline.checks import published, specs, stopped
from batchrec_dagster.pipeline.exclusive_step import exclusive_step
from batchrec_dagster.pipeline.resources import PersonalizeResource
from batchrec_dagster.pipeline.ui import MODEL, asset_args, dataset_group, preview, table
from batchrec_dagster.steps.batch_jobs import lasted, outcome, stem
from batchrec_dagster.steps.cost import cost_metadata, estimate, import_cost, summary, within_budget
from batchrec_dagster.steps.dataset_imports import (
    Imported,
    datasets_of,
    ensure_dataset,
    imports_into,
    sizes_of,
    version_of,
)
from batchrec_dagster.steps.publishing import storage_errors
from batchrec_dagster.steps.training import all_recipes, recipes_to_train
from batchrec_dagster.storage.paths import read_record, write_record
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"


class ImportConfig(dg.Config):
    """Told to one run, from the Launchpad or the command line."""

    force_import: bool = Field(
        default=False, description="Import the data even if they have not changed."
    )


def personalize_dataset(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    datasets = datasets_of(pipeline)
    schemas = fingerprint(*(dataset.schema for dataset in datasets))
    # A dataset keeps its schema, so that another schema means another dataset group.
    group_name = f"{pipeline.name}-{schemas[:8]}"
    budgeted = (
        {"within_budget": "The run costs no more than budget.max_usd_per_run, by estimate."}
        if pipeline.budget.max_usd_per_run is not None
        else {}
    )

    @dg.asset(
        **asset_args(
            pipeline,
            description=f"The {' and '.join(dataset.asset for dataset in datasets)} where a model"
            " can learn from them: imported into Amazon Personalize. It takes a dataset group, a"
            " schema, a dataset and an import job there. What has not changed is not imported"
            " again.",
            kinds={"personalize"},
            stage=MODEL,
            storage_key=pipeline.places.record("personalize_dataset"),
            code_version=f"{CODE_VERSION}-{schemas}",
            io_manager="record_io",
        ),
        deps=[dg.AssetKey([pipeline.name, dataset.asset]) for dataset in datasets],
        check_specs=specs("personalize_dataset", pipeline.name, **budgeted),
    )
    @exclusive_step(pipeline)
    def personalize_dataset(
        context: dg.AssetExecutionContext,
        config: ImportConfig,
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> Iterator[Any]:
        started = time.monotonic()
        versions = [version_of(storage, dataset) for dataset in datasets]
        version = versions[0] if len(versions) == 1 else fingerprint(*versions)
        ensure = personalize.ensure(
            context.log, {**pipeline.tags, "batchrec:data-version": version}
        )
        sizes = sizes_of(storage, datasets)
        if budgeted and not any(g["name"] == group_name for g in ensure.list(DATASET_GROUP)):
            # Check the budget before anything is created.
            first = estimate(pipeline, storage, imports=sizes, trainings=all_recipes(pipeline))
            yield from stopped(within_budget(pipeline.budget, first, on_aws=personalize.on_aws))
        group = ensure.named(DATASET_GROUP, group_name, {}).arn
        record = {"dataset_group_arn": group, "dataset_group_name": group_name}
        there = [ensure_dataset(ensure, group, group_name, dataset) for dataset in datasets]
        arns = [dataset.arn for dataset in there]
        since = {each.arn: each.description["creationDateTime"] for each in there}
        place = pipeline.places.record("personalize_dataset")
        # The record may describe imports that a teardown has deleted since.
        new = (
            config.force_import
            or read_record(storage, place).get("data_version") != version
            or not all(imports_into(ensure, dataset) for dataset in there)
        )
        costs = estimate(
            pipeline,
            storage,
            imports=sizes if new else {},
            trainings=recipes_to_train(pipeline, context, ensure, storage, record, version),
        )
        context.log.info(
            f"{'' if personalize.on_aws else 'on AWS '}this run costs {summary(costs)}"
        )
        checks = within_budget(pipeline.budget, costs, on_aws=personalize.on_aws)
        yield from stopped(checks)

        def of_this(job: Description) -> bool:
            """A data set made anew has the ARN, and so the jobs, of the one that was deleted."""
            return bool(job["creationDateTime"] >= since[job["datasetArn"]])

        def start(dataset: Imported, arn: str, data_version: str) -> Started:
            # Import jobs of all data sets share their names.
            infix = "" if dataset.dataset_type == INTERACTIONS else f"-{dataset.asset}"
            return ensure.start_numbered(
                IMPORT_JOB,
                stem(f"{pipeline.name}{infix}", data_version, context, afresh=config.force_import),
                lambda name: {
                    "datasetArn": arn,
                    "dataSource": {"dataLocation": storage.uri(dataset.place)},
                    "roleArn": personalize.role_arn,
                    "importMode": "FULL",
                },
                usable=of_this,
                datasetArn=arn,
            )

        jobs = ensure.all_ready(
            IMPORT_JOB,
            [start(*each) for each in zip(datasets, arns, versions, strict=True)],
        )
        record["data_version"] = version
        outcomes: dict[str, Any] = {}
        for dataset, arn, job in zip(datasets, arns, jobs, strict=True):
            prefix = "" if dataset.dataset_type == INTERACTIONS else f"{dataset.asset}_"
            record[f"{prefix}dataset_arn"] = arn
            record[f"{prefix}dataset_import_job_arn"] = job.arn
            outcomes[f"{prefix}outcome"] = outcome(job, "imported")
            context.log.info(f"{dataset.asset}: {outcome(job, 'imported')}, {lasted(job):.1f} s")
        with storage_errors():
            recorded = write_record(storage, place, record)
        paid = [
            import_cost(name, size)
            for (name, size), job in zip(sizes.items(), jobs, strict=True)
            if job.created
        ]
        result = dg.MaterializeResult(
            value=recorded,
            data_version=dg.DataVersion(version),
            metadata={
                "preview": preview(
                    f"The dataset group `{group_name}` has:",
                    table(
                        ["dataset", "import job", "what this run did"],
                        [
                            [dataset.asset, job.description["jobName"], outcome(job, "imported")]
                            for dataset, job in zip(datasets, jobs, strict=True)
                        ],
                    ),
                ),
                **record,
                **dataset_group(personalize, group),
                "status": jobs[0].description["status"],
                **outcomes,
                "import_seconds": sum(lasted(job) for job in jobs),
                **cost_metadata("estimated_usd", costs, on_aws=personalize.on_aws),
                **cost_metadata("cost_usd", paid, on_aws=personalize.on_aws),
                "seconds": time.monotonic() - started,
            },
        )
        yield from published(checks, result)

    return personalize_dataset
