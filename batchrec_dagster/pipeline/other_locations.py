"""The published lists for other code locations, and the resources needed to load them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import dagster as dg

from batchrec_dagster.pipeline.asset_keys import resource_key
from batchrec_dagster.pipeline.declared import PIPELINE, STORAGE_KEY
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.storage.layout import ListKeys


def published(pipeline: str) -> dg.AssetSpec:
    """Return the published lists of a pipeline in another code location, as an asset spec.

    Assets can depend on the spec and load its rows. A location that loads rows needs `resources()`.
    pipeline: the pipeline's name, such as `shop`. If the pipeline has several lists, the address of
        a list, such as `shop/newsletter`.
    """
    keys = ListKeys(pipeline)
    return dg.AssetSpec(
        key=keys.asset_key,
        description=f"The lists that the pipeline {pipeline} published: user_id, rank, item_id,"
        " title where items have titles, score.",
        metadata={
            PIPELINE: keys.pipeline,
            STORAGE_KEY: keys.table,
        },
    ).with_io_manager_key(resource_key("published_io"))


def resources(environment: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Return batchrec's resources and IO managers by key, configured by environment variables.

    environment: values that override variables of the process's environment.
    """
    return Deployment.from_environment(environment).resources()
