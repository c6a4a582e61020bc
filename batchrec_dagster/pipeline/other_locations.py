"""What other code locations load: the published lists, and the resources that they need."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import dagster as dg

from batchrec_dagster.pipeline.declared import PIPELINE
from batchrec_dagster.pipeline.deployment import Deployment, resource_key
from batchrec_dagster.pipeline.io_managers import STORAGE_KEY
from batchrec_dagster.storage.layout import ListKeys


def published(pipeline: str) -> dg.AssetSpec:
    """The published lists of a pipeline in another code location, to depend on and to load.

    A location that loads them needs `resources()`.
    pipeline: its name, such as `shop`, or the address of one of several lists, such as
        `shop/newsletter`.
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
    """batchrec's resources and IO managers by key, as the environment's variables say.

    environment: variables in place of those of the process.
    """
    return Deployment.from_environment(environment).resources()
