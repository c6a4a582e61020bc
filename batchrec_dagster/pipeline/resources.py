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
        """The resources, for a project that only reads what other code locations publish."""
        return dg.Definitions(resources=deployment_of(DeploymentSettings(), context).resources())


def deployment_of(own: DeploymentSettings, context: dg.ComponentLoadContext) -> Deployment:
    """A pipeline's deployment: its own settings, else the project's BatchrecResources, else the
    environment. Raises DeploymentError."""
    project = context.component_tree.get_all_components(of_type=BatchrecResources)
    environment = dict(os.environ)
    for settings in (*project, own):
        environment |= settings.variables
    return Deployment.from_environment(environment)
