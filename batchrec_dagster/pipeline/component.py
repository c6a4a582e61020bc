"""The Dagster component of a defs.yaml, which turns a declared pipeline into definitions."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError, model_validator

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.problems import raise_problems
from batchrec_dagster.config.running import NOT_CRON
from batchrec_dagster.config.templates import escape_templates
from batchrec_dagster.pipeline.assets.table import list_assets
from batchrec_dagster.pipeline.automation.alerts import list_alert_sensors
from batchrec_dagster.pipeline.automation.dagster_jobs import build_automation
from batchrec_dagster.pipeline.component_files import find_component_file
from batchrec_dagster.pipeline.declaration_errors import (
    DeclarationError,
    Origin,
    build_validation_error,
    require_distinct_settings,
)
from batchrec_dagster.pipeline.declare_asset import PipelineAsset
from batchrec_dagster.pipeline.declared import mark_declaration
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.pipeline.loading import OwnTree
from batchrec_dagster.pipeline.results import AssetResult
from batchrec_dagster.pipeline.run_step import build_asset
from batchrec_dagster.pipeline.scaffolding import PipelineScaffolder


@dg.scaffold_with(PipelineScaffolder)
class BatchRecommendations(Pipeline, dg.Component):
    """Recommendations for every user from a file of ratings, with Amazon Personalize."""

    # None for a pipeline that Python code builds.
    _origin: Origin | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _is_scheduled_as_dagster_can(self) -> Self:
        cron = self.schedule.cron
        try:
            dg.ScheduleDefinition(name="check", cron_schedule=cron, job_name="check")
        except dg.DagsterInvalidDefinitionError:
            raise_problems([(("schedule", "cron"), NOT_CRON)])
        return self

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return cls

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Return the pipeline that a file declares.

        Raises DeclarationError, which names the line.
        """
        file = find_component_file(context.path) or context.path
        if file.is_file():
            require_distinct_settings(file)
        origin = Origin(file, context.resolution_context)
        try:
            declared = cls.model_validate({} if attributes is None else attributes)
        except ValidationError as error:
            raise build_validation_error(origin, error) from error
        declared._origin = origin
        for source in declared.sources:
            source.name_file(os.path.relpath(file, context.project_root))
        return declared

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        pipeline = self.in_project(context.project_root)
        origin = self._origin or Origin(find_component_file(context.path) or context.path)
        table = list_assets(pipeline)
        _require_known_assets(pipeline, table, origin)
        first, *later_assets = self.build_assets(table)
        assets = [mark_declaration(first, pipeline, origin), *later_assets]
        deployment = _open_deployment()
        executor = deployment.executor() if deployment.embedded else None
        return dg.Definitions.merge(
            dg.Definitions(
                assets=assets,
                resources=deployment.resources(),
                sensors=list_alert_sensors(pipeline, context.component_tree),
            ),
            build_automation(
                pipeline,
                assets,
                executor,
                deployment.open_storage(),
                own_console=isinstance(context.component_tree, OwnTree),
            ),
        )

    def build_assets(self, table: Iterable[PipelineAsset]) -> list[dg.AssetsDefinition]:
        """Return Dagster's assets for a table, with the specs and the steps of this class."""
        return [build_asset(asset, self.get_asset_spec(asset), self.execute) for asset in table]

    def get_asset_spec(self, asset: PipelineAsset) -> dg.AssetSpec:
        """Return the spec of an asset. A subclass can change everything in it except the key.

        asset: the asset. Its `name` is solution_version, for example, or newsletter/recommendations
            for an asset of a list.
        """
        return asset.spec

    def execute(
        self,
        asset: PipelineAsset,
        context: dg.AssetExecutionContext,
        step: Callable[[], dg.MaterializeResult[Any]],
    ) -> Iterator[AssetResult]:
        """Run the step of an asset. A subclass can add code before and after it.

        step: runs the step, and returns the result with its checks.
        """
        yield step()

    def change(self, settings: Mapping[str, Any], project: Path) -> Pipeline:
        """Return the pipeline with changed settings, for a test, without sinks and alerts.

        settings: the changed settings by their path, such as ratings.source.
        project: the folder where relative paths start.
        Raises DeclarationError if the settings are not valid.
        """
        changed = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        changed = escape_templates(changed)
        for path, value in settings.items():
            *blocks, last = path.split(".")
            block = changed
            for name in blocks:
                block[name] = dict(block.get(name) or {})
                block = block[name]
            block[last] = value
        for block in [changed, *(changed.get("lists") or {}).values()]:
            block.pop("sinks", None)
        changed.pop("alerts", None)
        try:
            return type(self).model_validate(changed).in_project(project)
        except ValidationError as error:
            raise build_validation_error(self._origin or Origin(project), error) from error


def _require_known_assets(
    pipeline: Pipeline, table: Iterable[PipelineAsset], origin: Origin
) -> None:
    """Raise DeclarationError if `op` names assets that the pipeline does not have."""
    names = [asset.name for asset in table]
    message = f"the pipeline has no such asset; write {', '.join(names)} or *"
    lines = [
        origin.describe_problem(("op", name), message)
        for name in pipeline.op
        if name not in ("*", *names)
    ]
    if lines:
        raise DeclarationError("\n".join(lines))


def _open_deployment() -> Deployment:
    """Return the environment's deployment, and create its folder. Raises DeploymentError."""
    deployment = Deployment.from_environment()
    deployment.make_home()
    return deployment
