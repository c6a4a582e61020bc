"""Dagster's names for the assets of pipelines and lists, and the settings of their steps."""

from __future__ import annotations

import dagster as dg

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.config.running import OpSettings


def asset_key(owner: Pipeline | ListTable, asset: str) -> dg.AssetKey:
    """Return the key of an asset of a pipeline or a list.

    asset: the asset's name, such as interactions.
    """
    return dg.AssetKey(owner.asset_key(asset))


def asset_name(key: dg.AssetKey) -> str:
    """Return the asset's name in settings, such as newsletter/recommendations."""
    return "/".join(key.path[1:])


def op_name(owner: Pipeline | ListTable, asset: str) -> str:
    """Return the name of the asset's step in a run's config."""
    return asset_key(owner, asset).to_python_identifier()


def find_op_settings(pipeline: Pipeline, key: dg.AssetKey) -> OpSettings:
    """Return the settings for running the step of the asset with this key.

    Settings for the asset override the settings for all assets (`*`).
    """
    names = ("*", asset_name(key))
    of_all, of_asset = (pipeline.op.get(name, OpSettings()) for name in names)
    overrides = {name: getattr(of_asset, name) for name in of_asset.model_fields_set}
    return of_all.model_copy(update=overrides)


def resource_key(name: str) -> str:
    """Return the key of a resource or IO manager in a code location."""
    return f"batchrec_{name}"
