"""The resources of the pipelines in a code location, which no other definition provides."""

from __future__ import annotations

import os

import dagster as dg

from batchrec_dagster.config.deployment import DeploymentSettings
from batchrec_dagster.deployment import Deployment


class BatchrecResources(DeploymentSettings, dg.Component, dg.Resolvable):
    """Storage and Personalize of all pipelines in the project, in place of environment
    variables."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """None of its own: the pipelines bring their resources."""
        return dg.Definitions()


def deployment_of(context: dg.ComponentLoadContext) -> Deployment:
    """The deployment of the project's pipelines: as BatchrecResources says, else the environment.
    Raises DeploymentError."""
    project = context.component_tree.get_all_components(of_type=BatchrecResources)
    environment = dict(os.environ)
    for settings in project:
        environment |= settings.variables
    return Deployment.from_environment(environment)
