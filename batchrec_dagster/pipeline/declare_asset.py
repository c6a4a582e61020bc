"""The declaration of a pipeline's assets: their specs, checks, inputs and steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.config.running import OpSettings
from batchrec_dagster.pipeline.asset_keys import (
    asset_key,
    asset_name,
    find_op_settings,
    resource_key,
)
from batchrec_dagster.pipeline.declared import PIPELINE, STORAGE_KEY
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.model.cost import WITHIN_BUDGET

# The values of an asset's tag `stage`, from ratings to results.
RAW, PREPARED, MODEL, RESULT = "raw", "prepared", "model", "result"
# An asset's step: a function of its context, its config if it has one, and its inputs.
Step = Callable[..., dg.MaterializeResult[Any]]


@dataclass(frozen=True)
class PipelineAsset:
    """An asset of a pipeline: the information for Dagster, and the asset's step."""

    address: str
    """The address of the list, or of the pipeline, under which the step's outcome is recorded."""
    spec: dg.AssetSpec
    checks: Sequence[dg.AssetCheckSpec]
    inputs: Mapping[str, dg.AssetIn]
    """The upstream asset for each parameter of the step."""
    resources: set[str]
    op: OpSettings
    step: Step

    @property
    def name(self) -> str:
        """The asset's name in settings, such as newsletter/recommendations."""
        return asset_name(self.spec.key)


def asset_of(
    owner: Pipeline | ListTable,
    name: str,
    *,
    description: str,
    kinds: set[str],
    code_version: str,
    inputs: Collection[str] | Mapping[str, dg.AssetKey] = (),
    on_personalize: bool = False,
    stage: str = RESULT,
    storage_key: str | None = None,
    io_manager: str | None = None,
    deps: Collection[dg.AssetKey] = (),
    checks: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
) -> Callable[[Step], PipelineAsset]:
    """Return a decorator that turns a step into an asset of a pipeline or a list.

    code_version must change whenever the same input would give another output, so that Dagster
    marks the asset as stale. Include a fingerprint of the settings that the asset reads.
    inputs: the names of the pipeline's assets that the step takes as parameters, or a mapping from
        the step's parameters to assets.
    on_personalize: whether the step uses Personalize besides the storage.
    storage_key, io_manager: the place where the value is stored, and the IO manager that reads it.
        Leave them out for an asset that stores nothing in the pipeline's storage.
    checks, warnings: the descriptions of the checks, by name. Warnings do not block.
    """
    pipeline = owner.pipeline if isinstance(owner, ListTable) else owner
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
            **({STORAGE_KEY: storage_key} if storage_key else {}),
        },
    )
    if io_manager is not None:
        spec = spec.with_io_manager_key(resource_key(io_manager))
    resources = {"storage", "personalize"} if on_personalize else {"storage"}

    def declare(step: Step) -> PipelineAsset:
        return PipelineAsset(
            address=_find_address(owner, name),
            spec=spec,
            checks=_build_check_specs(key, checks or {}, warnings or {}),
            inputs={parameter: dg.AssetIn(key=asset) for parameter, asset in inputs.items()},
            resources={resource_key(resource) for resource in resources},
            op=find_op_settings(pipeline, key),
            step=step,
        )

    return declare


def _find_address(owner: Pipeline | ListTable, name: str) -> str:
    """Return the address under which the outcome of the asset's step is recorded."""
    if isinstance(owner, Pipeline):
        return owner.name
    is_shared = name == "batch_users" and not owner.has_own_users
    return owner.pipeline.name if is_shared or not owner.is_addressed else owner.address


def _build_check_specs(
    asset: dg.AssetKey, checks: Mapping[str, str], warnings: Mapping[str, str]
) -> list[dg.AssetCheckSpec]:
    """Return the specs of an asset's checks.

    checks: the descriptions of the checks that block, by name.
    warnings: the descriptions of the checks that only warn, by name.
    """
    blocking = [
        dg.AssetCheckSpec(name, asset=asset, description=description, blocking=True)
        for name, description in checks.items()
    ]
    warning = [
        dg.AssetCheckSpec(name, asset=asset, description=description)
        for name, description in warnings.items()
    ]
    return blocking + warning


def build_budget_check(pipeline: Pipeline) -> dict[str, str]:
    """Return the budget check for an asset that costs money; empty if no budget is declared."""
    if pipeline.budget.max_usd_per_run is None:
        return {}
    return {WITHIN_BUDGET: "The run's estimated cost is within budget.max_usd_per_run."}
