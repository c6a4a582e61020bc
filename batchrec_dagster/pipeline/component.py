"""The component of the YAML: wires a declared pipeline to Dagster's definitions."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError, model_validator

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.project import NOT_CRON
from batchrec_dagster.config.templates import escape_templates
from batchrec_dagster.config.validation import raise_field_errors
from batchrec_dagster.pipeline.asset_keys import asset_name
from batchrec_dagster.pipeline.assets.items import item_assets
from batchrec_dagster.pipeline.assets.lists import published_lists
from batchrec_dagster.pipeline.assets.prepared import batch_users, interactions
from batchrec_dagster.pipeline.assets.raw import raw_ratings
from batchrec_dagster.pipeline.assets.reports import recommendation_outcomes, recommendation_report
from batchrec_dagster.pipeline.assets.sinks import sink_assets
from batchrec_dagster.pipeline.assets.training import (
    personalize_dataset,
    segment_solution_version,
    similar_items_solution_version,
    solution_version,
)
from batchrec_dagster.pipeline.assets.users import user_assets
from batchrec_dagster.pipeline.automation.alerts import alert_sensors
from batchrec_dagster.pipeline.automation.jobs import build_automation
from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
from batchrec_dagster.pipeline.component_files import find_component_file
from batchrec_dagster.pipeline.declaration_errors import (
    DeclarationError,
    Origin,
    build_validation_error,
    find_repeated_settings,
)
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.pipeline.scaffolding import PipelineScaffolder
from batchrec_dagster.storage.extras import is_installed


@dg.scaffold_with(PipelineScaffolder)
class BatchRecommendations(Pipeline, dg.Component):
    """Recommendations for every user from a file of ratings, with Amazon Personalize."""

    # None for a pipeline that Python makes.
    _origin: Origin | None = PrivateAttr(default=None)
    # The specs of all assets by their names, once they are built.
    _specs: dict[str, dg.AssetSpec] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _is_scheduled_as_dagster_can(self) -> Self:
        cron = self.schedule.cron
        try:
            dg.ScheduleDefinition(name="check", cron_schedule=cron, job_name="check")
        except dg.DagsterInvalidDefinitionError:
            raise_field_errors([(("schedule", "cron"), NOT_CRON)])
        return self

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return cls

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The pipeline that a file declares. Raises DeclarationError, which names the line."""
        file = find_component_file(context.path) or context.path
        repeated_settings = find_repeated_settings(file) if file.is_file() else None
        if repeated_settings is not None:
            raise repeated_settings
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
        built_pipelines = get_built_pipelines(context.component_tree)
        built_pipelines.add(pipeline, origin)
        assets = build_assets(pipeline)
        for published in pipeline.published_lists():
            assets += sink_assets(published)
        self._specs = {asset_name(spec.key): spec for asset in assets for spec in asset.specs}
        self._require_known_assets(origin)
        assets = [
            asset.map_asset_specs(lambda spec: self.get_asset_spec(asset_name(spec.key)))
            for asset in assets
        ]
        deployment = _open_deployment()
        executor = deployment.executor() if deployment.embedded else None
        return dg.Definitions.merge(
            dg.Definitions(assets=assets, resources=deployment.resources()),
            build_automation(pipeline, assets, executor),
            dg.Definitions(
                sensors=alert_sensors(built_pipelines.watched)
                if built_pipelines.brings_alerts(pipeline)
                else []
            ),
        )

    def get_asset_spec(self, name: str) -> dg.AssetSpec:
        """The spec of an asset of the pipeline, which a subclass can change but for its key.

        name: such as solution_version, or newsletter/recommendations for that of a list.
        """
        return self._specs[name]

    def change(self, settings: Mapping[str, Any], project: Path) -> Pipeline:
        """The pipeline with other settings, for a test: it reaches no sinks and nobody.

        settings: the changed ones by their path, such as ratings.source.
        project: the folder where relative paths start.
        Raises DeclarationError if they are not valid.
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

    def _require_known_assets(self, origin: Origin) -> None:
        """Raises DeclarationError if `op` names assets that the pipeline does not have."""
        message = f"the pipeline has no such asset; write {', '.join(self._specs)} or *"
        lines = [
            origin.describe_problem(("op", name), message)
            for name in self.op
            if name not in ("*", *self._specs)
        ]
        if lines:
            raise DeclarationError("\n".join(lines))


def build_assets(pipeline: Pipeline, *, report: bool = True) -> list[dg.AssetsDefinition]:
    """The assets from the raw files to the lists, segments and reports, without sinks.

    report: whether the outcomes and reports are among them.
    """
    recipe = pipeline.similar_items_recipe
    assets = [
        raw_ratings(pipeline),
        interactions(pipeline),
        *item_assets(pipeline),
        *user_assets(pipeline),
        personalize_dataset(pipeline),
        solution_version(pipeline),
        *_build_batch_users(pipeline),
        *_build_outcomes(pipeline, with_reports=report),
    ]
    if pipeline.segments is not None:
        assets.append(segment_solution_version(pipeline, pipeline.segments))
    if recipe is not None:
        assets.append(similar_items_solution_version(pipeline, recipe))
    assets += map(published_lists, pipeline.published_lists())
    return [*assets, *_build_reports(pipeline, assets)] if report else assets


def _build_batch_users(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The assets of the users: those of lists with users of their own, and one for all others."""
    own_users = [published for published in pipeline.user_lists if published.has_own_users]
    sharing = [published for published in pipeline.user_lists if not published.has_own_users]
    return [*map(batch_users, [*sharing[:1], *own_users])]


def _build_outcomes(pipeline: Pipeline, *, with_reports: bool) -> list[dg.AssetsDefinition]:
    """The assets of what people did with earlier lists, which stand before the lists."""
    if not (with_reports and is_installed("report")):
        return []
    return [*map(recommendation_outcomes, pipeline.user_lists)]


def _build_reports(
    pipeline: Pipeline, assets: Sequence[dg.AssetsDefinition]
) -> list[dg.AssetsDefinition]:
    """The assets of the reports, which show the checks of what their list is made from."""
    if not is_installed("report"):
        return []
    reports = []
    for published in pipeline.user_lists:
        folder_of_list = published.asset_key("recommendations")[:-1]
        checks = [
            spec
            for asset in assets
            if asset.key.path[:-1] in ([pipeline.name], folder_of_list)
            for spec in asset.check_specs
        ]
        reports.append(recommendation_report(published, checks))
    return reports


def _open_deployment() -> Deployment:
    """The deployment of the environment, with its folder. Raises DeploymentError."""
    deployment = Deployment.from_environment()
    deployment.make_home()
    return deployment
