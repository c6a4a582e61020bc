"""What Dagster calls the assets of pipelines and lists, and how it runs their steps."""

from __future__ import annotations

import dagster as dg

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.config.running import OpSettings


def asset_key(owner: Pipeline | PublishedList, asset: str) -> dg.AssetKey:
    """The key of the asset of this name that a pipeline or a list has."""
    return dg.AssetKey(owner.asset_key(asset))


def asset_name(key: dg.AssetKey) -> str:
    """What settings call the asset of this key, such as solution_version or
    newsletter/recommendations."""
    return "/".join(key.path[1:])


def op_name(owner: Pipeline | PublishedList, asset: str) -> str:
    """The name of the asset's step in a run's config."""
    return asset_key(owner, asset).to_python_identifier()


def find_op_settings(pipeline: Pipeline, key: dg.AssetKey) -> OpSettings:
    """How Dagster runs the step of the asset of this key."""
    names = ("*", asset_name(key))
    of_all, of_asset = (pipeline.op.get(name, OpSettings()) for name in names)
    own = {name: getattr(of_asset, name) for name in of_asset.model_fields_set}
    return of_all.model_copy(update=own)
