"""The component of the YAML: wires a declared pipeline to Dagster's definitions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError, model_validator

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.declaration import Declaration
from batchrec_dagster.config.declaration_errors import (
    DeclarationError,
    Problem,
    build_validation_error,
    find_repeated_settings,
    format_problems,
)
from batchrec_dagster.config.templates import Sandboxed
from batchrec_dagster.deployment import Deployment
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
from batchrec_dagster.pipeline.scaffolding import PipelineScaffolder
from batchrec_dagster.storage.extras import is_installed


@dataclass(frozen=True)
class _Origin:
    """What a pipeline was loaded from."""

    file: Path
    """The defs.yaml that declares it."""
    attributes: BaseModel
    """Its attributes, before templates are filled in."""
    context: dg.ComponentLoadContext


@dg.scaffold_with(PipelineScaffolder)
class BatchRecommendations(Sandboxed, Declaration, dg.Component):
    """Recommendations for every user from a file of ratings, with Amazon Personalize."""

    # None for a pipeline that Python makes.
    _origin: _Origin | None = PrivateAttr(default=None)
    # The specs of all assets by their names, once they are built.
    _specs: dict[str, dg.AssetSpec] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _declares_a_pipeline(self) -> Self:
        self.make_pipeline(Path())
        return self

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The pipeline that a defs.yaml declares. Raises DeclarationError, which names the line."""
        file = context.path / "defs.yaml"
        repeated_settings = find_repeated_settings(file)
        if repeated_settings is not None:
            raise repeated_settings
        try:
            loaded = super().load(attributes, context)
        except ValidationError as error:
            raise build_validation_error(file, error) from error
        if attributes is not None:
            loaded._origin = _Origin(file, attributes, context)
        users_of_lists = [settings.users for settings in loaded.lists.values()]
        blocks = (loaded.ratings, loaded.items, loaded.users, loaded.batch_users, *users_of_lists)
        for declared in blocks:
            if declared is not None:
                declared._file = os.path.relpath(file, context.project_root)
        return loaded

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        pipeline = self.make_pipeline(context.project_root)
        built_pipelines = get_built_pipelines(context.component_tree)
        built_pipelines.add(pipeline, self._find_place(context))
        assets = build_assets(pipeline)
        for published in pipeline.published_lists():
            assets += sink_assets(published)
        self._specs = {asset_name(spec.key): spec for asset in assets for spec in asset.specs}
        self._require_known_assets(context)
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

    def make_pipeline(self, project: Path) -> Pipeline:
        """The declared pipeline.

        project: the folder where relative paths start.
        Raises ValidationError if its blocks do not fit each other.
        """
        declared = Declaration.model_fields.keys() & self.model_fields_set
        return Pipeline(project=project, **{name: getattr(self, name) for name in declared})

    def get_asset_spec(self, name: str) -> dg.AssetSpec:
        """The spec of an asset of the pipeline, which a subclass can change but for its key.

        name: such as solution_version, or newsletter/recommendations for that of a list.
        """
        return self._specs[name]

    def change(self, settings: Mapping[str, Any]) -> Pipeline:
        """The pipeline with other settings, for a test: it reaches no sinks and nobody.

        settings: the changed ones by their path, such as ratings.source.
        Raises DeclarationError if they are not valid.
        """
        if self._origin is None:
            raise DeclarationError(f"{self.name} is declared in Python: change it there")
        file, context = self._origin.file, self._origin.context
        attributes = self._origin.attributes
        changed = attributes.model_dump(mode="json", exclude_unset=True)
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
            made = self.load(type(attributes).model_validate(changed), context)
        except ValidationError as error:
            raise build_validation_error(file, error) from error
        return made.make_pipeline(context.project_root)

    def _require_known_assets(self, context: dg.ComponentLoadContext) -> None:
        """Raises DeclarationError if `op` names assets that the pipeline does not have."""
        unknown_names = [name for name in self.op if name not in ("*", *self._specs)]
        if not unknown_names:
            return
        place = self._find_place(context)
        message = f"the pipeline has no such asset; write {', '.join(self._specs)} or *"
        if self._origin is None:
            names = ", ".join(unknown_names)
            raise DeclarationError(f"{place}: {self.name}: op.{names}: {message}")
        problems = [Problem(place, ["attributes", "op", name], message) for name in unknown_names]
        raise DeclarationError("\n".join(format_problems(problems)))

    def _find_place(self, context: dg.ComponentLoadContext) -> Path:
        """The file that declares the pipeline, or the one of the component that made it."""
        if self._origin is not None:
            return self._origin.file
        file = context.path / "defs.yaml"
        return file if file.is_file() else context.path


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
    deployment = Deployment.from_environment(os.environ)
    deployment.make_home()
    return deployment
