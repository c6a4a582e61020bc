"""What a pipeline's assets have in common: how they are declared, and kinds of metadata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.config.project import OpSettings, Retries
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.pipeline.asset_keys import asset_key, asset_name, find_op_settings
from batchrec_dagster.pipeline.deployment import resource_key
from batchrec_dagster.pipeline.io_managers import STORAGE_KEY
from batchrec_dagster.pipeline.run_endings import LIST, PIPELINE
from batchrec_dagster.pipeline.run_step import Execute, Step, build_body, check_specs
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.cost import WITHIN_BUDGET
from batchrec_dagster.storage.connection import Storage

# The values of an asset's tag `stage`, from ratings to results.
RAW, PREPARED, MODEL, RESULT = "raw", "prepared", "model", "result"


@dataclass(frozen=True)
class PipelineAsset:
    """A line of the table of a pipeline's assets: what Dagster is told of one, and its step."""

    spec: dg.AssetSpec
    checks: Sequence[dg.AssetCheckSpec]
    inputs: Mapping[str, dg.AssetIn]
    """The asset of each parameter of the step."""
    resources: set[str]
    op: OpSettings
    step: Step

    @property
    def name(self) -> str:
        """What settings call it, such as newsletter/recommendations."""
        return asset_name(self.spec.key)

    def build(self, spec: dg.AssetSpec, execute: Execute) -> dg.AssetsDefinition:
        """The asset with a spec that may say more than its own."""
        build_asset = dg.multi_asset(
            name=self.spec.key.to_python_identifier(),
            specs=[spec],
            check_specs=self.checks,
            ins=self.inputs,
            required_resource_keys=self.resources,
            op_tags=self.op.tags,
            pool=self.op.pool,
            retry_policy=_make_retry_policy(self.op.retries),
        )
        return build_asset(build_body(self.name, self.step, execute))


def asset_of(
    owner: Pipeline | PublishedList,
    name: str,
    *,
    description: str,
    kinds: set[str],
    code_version: str,
    inputs: Collection[str] | Mapping[str, dg.AssetKey] = (),
    resources: Collection[str] = ("storage",),
    stage: str = RESULT,
    storage_key: str | None = None,
    io_manager: str | None = None,
    deps: Collection[dg.AssetKey] = (),
    checks: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
) -> Callable[[Step], PipelineAsset]:
    """Decorates the step of an asset of a pipeline or a list.

    code_version must change whenever the same input would give another output, so that Dagster
    marks the asset as stale: include a fingerprint of the settings that the asset reads.
    inputs: the names of the pipeline's assets that the step takes as parameters, or the asset of
    each parameter.
    resources: the names of the resources that the step uses.
    storage_key, io_manager: where the value is stored, and how; neither for an asset that stores
    nothing in the pipeline's storage.
    checks, warnings: what each check checks, by its name; warnings do not block.
    """
    pipeline = owner.pipeline if isinstance(owner, PublishedList) else owner
    key = asset_key(owner, name)
    if not isinstance(inputs, Mapping):
        inputs = {asset: asset_key(owner, asset) for asset in inputs}
    spec = dg.AssetSpec(
        key=key,
        deps=[*inputs.values(), *deps],
        group_name=pipeline.name,
        description=escape(description),
        kinds=kinds,
        tags={"stage": stage},
        code_version=code_version,
        metadata={
            PIPELINE: pipeline.name,
            **_name_list(owner, name),
            **({STORAGE_KEY: storage_key} if storage_key else {}),
        },
    )
    return partial(
        PipelineAsset,
        spec.with_io_manager_key(resource_key(io_manager)) if io_manager else spec,
        check_specs(key, checks or {}, warnings or {}),
        {parameter: dg.AssetIn(key=input_key) for parameter, input_key in inputs.items()},
        {resource_key(resource) for resource in resources},
        find_op_settings(pipeline, key),
    )


def _make_retry_policy(retries: Retries | None) -> dg.RetryPolicy | None:
    if retries is None:
        return None
    return dg.RetryPolicy(retries.max_retries, retries.delay_seconds, dg.Backoff.EXPONENTIAL)


def _name_list(owner: Pipeline | PublishedList, name: str) -> dict[str, str]:
    """The metadata that names the list whose nights know how the asset's step ended.

    Empty for an asset of the pipeline, and for those of a list without a name.
    """
    if isinstance(owner, Pipeline) or not owner.name or not owner.has_editions:
        return {}
    is_shared = name == "batch_users" and not owner.has_own_users
    return {} if is_shared else {LIST: owner.name}


def budget_check(pipeline: Pipeline) -> dict[str, str]:
    """The check of the budget, for an asset that costs money; empty if no budget is declared."""
    if pipeline.budget.max_usd_per_run is None:
        return {}
    return {WITHIN_BUDGET: "The run's estimated cost is within budget.max_usd_per_run."}


def preview_metadata(*paragraphs: str) -> dg.MetadataValue[Any]:
    """Paragraphs of Markdown; what comes from data must be escape."""
    return dg.MetadataValue.md("\n\n".join(paragraphs))


Links = dict[str, dg.MetadataValue[Any]]


def storage_links(name: str, storage: Storage, uri: str) -> Links:
    """A link of this name to an object in the storage, and to its page in the S3 console."""
    links: Links = {name: dg.MetadataValue.path(storage.where(uri))}
    if storage.in_s3 and storage.s3.endpoint_url is None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        links[f"{name}_in_console"] = dg.MetadataValue.url(
            f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
        )
    return links


def dataset_group_link(arn: str, *, on_aws: bool) -> Links:
    """A link to the dataset group in Personalize's console; none for the local Personalize."""
    if not on_aws:
        return {}
    region = arn.split(":")[3]
    place = arn.replace("dataset-group/", "dataset-group$", 1)
    return {
        "console": dg.MetadataValue.url(
            f"https://console.aws.amazon.com/personalize/home?region={region}#{place}/setup"
        )
    }


def table_metadata(
    rows: int, columns: Mapping[str, tuple[str, str]], present: Sequence[str] | None = None
) -> dict[str, Any]:
    """A table's number of rows, and Dagster's schema of its columns.

    columns: the type and the description of each column that the table can have.
    present: the columns that the table has; by default all.
    """
    names = [*columns] if present is None else present
    described = [
        dg.TableColumn(name=name, type=columns[name][0], description=escape(columns[name][1]))
        for name in names
    ]
    return {
        "dagster/row_count": rows,
        "dagster/column_schema": dg.TableSchema(columns=described),
    }


def sample_metadata(frame: pl.DataFrame) -> dg.MetadataValue[Any]:
    """A few rows as a table in the UI."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in frame.iter_rows(named=True)],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(name=name, type=str(dtype).lower())
                for name, dtype in frame.schema.items()
            ]
        ),
    )


def build_cost_metadata(key: str, costs: Sequence[Cost], *, on_aws: bool) -> dict[str, float]:
    """The metadata of a cost, in USD.

    `KEY` is what is paid; `KEY_on_aws` is what is or would be paid on AWS.
    """
    usd = sum(cost.usd for cost in costs)
    return {key: usd if on_aws else 0.0, f"{key}_on_aws": usd}
