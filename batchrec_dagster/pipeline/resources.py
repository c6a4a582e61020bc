"""The resources of the pipelines in a code location, and their lists for other locations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.config.project import DeploymentSettings
from batchrec_dagster.config.templates import Sandboxed
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.loading import find_components
from batchrec_dagster.pipeline.run_endings import LIST, PIPELINE
from batchrec_dagster.storage.io_managers import STORAGE_KEY
from batchrec_dagster.storage.paths import StorageKeys


class BatchrecResources(Sandboxed, DeploymentSettings, dg.Component):
    """Storage and Personalize of all pipelines in the project, in place of environment
    variables."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The resources, for a project that only reads what other code locations publish.

        Raises DeclarationError if pipelines that were built before did not see these settings.
        """
        if not any(known is self for known in find_components(context, BatchrecResources)):
            raise DeclarationError(
                f"{context.path}: pipelines look for BatchrecResources before they are built:"
                " declare them in YAML, or annotate the function with @dg.component_instance"
                " (-> BatchrecResources), in a file without `from __future__ import annotations`"
            )
        return dg.Definitions(
            resources=resolve_deployment(DeploymentSettings(), context).resources()
        )


def resolve_deployment(own: DeploymentSettings, context: dg.ComponentLoadContext) -> Deployment:
    """A pipeline's deployment: its own settings, else the project's BatchrecResources, else the
    environment. Raises DeploymentError."""
    project = find_components(context, BatchrecResources)
    environment = dict(os.environ)
    for settings in (*project, own):
        environment |= settings.variables
    return Deployment.from_environment(environment)


def published(pipeline: str, *, key_prefix: str | None = None) -> dg.AssetSpec:
    """The published lists of a pipeline in another code location, to depend on and to load.

    A location that loads them needs `resources()`.
    pipeline: its name, such as `shop`, or the address of one of several lists, such as
        `shop/newsletter`.
    key_prefix: the pipeline's assets.key_prefix, if it declares one.
    """
    keys = StorageKeys(pipeline)
    of_list = [keys.list_name] if keys.list_name else []
    return dg.AssetSpec(
        key=[*(key_prefix or keys.pipeline).split("/"), *of_list, "recommendations"],
        description=f"The lists that the pipeline {pipeline} published: user_id, rank, item_id,"
        " title where items have titles, score.",
        metadata={
            PIPELINE: keys.pipeline,
            **({LIST: keys.list_name} if keys.list_name else {}),
            STORAGE_KEY: keys.recommendations,
        },
    ).with_io_manager_key("batchrec_published_io")


def resources(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """batchrec's resources and IO managers by key, as the environment's variables say."""
    return Deployment.from_environment(environment).resources()
