"""personalize_dataset: the interactions, and the items where declared, imported."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.pipeline.declare_asset import MODEL, asset
from batchrec_dagster.pipeline.run_step import exclusive_step, published, run_step
from batchrec_dagster.pipeline.ui import dataset_group, preview
from batchrec_dagster.reporting.markdown import table
from batchrec_dagster.steps.cost import cost_metadata
from batchrec_dagster.steps.import_dataset import (
    DatasetImport,
    dataset_files,
    import_dataset,
    schemas_version,
)
from batchrec_dagster.steps.training import trained_by
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"


class ImportConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    force_import: bool = Field(
        default=False, description="Import the data even if they have not changed."
    )


def personalize_dataset(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
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
        context: dg.AssetExecutionContext,
        config: ImportConfig,
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> Iterator[Any]:
        imported = yield from run_step(
            lambda: import_dataset(
                pipeline,
                storage,
                personalize.ensure(context.log, pipeline.tags),
                run=context.run.root_run_id or context.run.run_id,
                force=config.force_import,
                forced_trainings=_forced_trainings(pipeline, context),
            )
        )
        result = dg.MaterializeResult(
            value=imported.stored,
            data_version=dg.DataVersion(imported.record.data_version),
            metadata={
                **_metadata(imported, personalize),
            },
        )
        yield from published(imported.checks, result)

    return personalize_dataset


def _forced_trainings(pipeline: Pipeline, context: dg.AssetExecutionContext) -> set[str]:
    """The assets for which this run sets force_train."""
    ops: Any = context.run.run_config.get("ops") or {}
    configs = {
        asset: (ops.get(pipeline.op_name(asset)) or {}).get("config") or {}
        for asset in trained_by(pipeline)
    }
    return {asset for asset, config in configs.items() if config.get("force_train")}


def _metadata(imported: DatasetImport, personalize: PersonalizeResource) -> dict[str, Any]:
    record = imported.record
    return {
        "preview": preview(
            f"The dataset group `{record.dataset_group_name}` has:",
            table(
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
