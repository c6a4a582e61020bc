"""The component of the YAML: wires a declared pipeline to Dagster's definitions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.declaration_errors import (
    DeclarationError,
    Problem,
    build_validation_error,
    find_repeated_settings,
    format_problems,
)
from batchrec_dagster.config.templates import Sandboxed
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.assets.items import item_assets
from batchrec_dagster.pipeline.assets.prepared import batch_users, interactions
from batchrec_dagster.pipeline.assets.raw import raw_ratings
from batchrec_dagster.pipeline.assets.recommendations import recommendations
from batchrec_dagster.pipeline.assets.reports import recommendation_outcomes, recommendation_report
from batchrec_dagster.pipeline.assets.similar_items import similar_items
from batchrec_dagster.pipeline.assets.sinks import sink_assets
from batchrec_dagster.pipeline.assets.training import (
    personalize_dataset,
    segment_solution_version,
    similar_items_solution_version,
    solution_version,
)
from batchrec_dagster.pipeline.assets.user_segments import user_segments
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
class BatchRecommendations(Sandboxed, Pipeline, dg.Component):
    """Recommendations for every user from a file of ratings, with Amazon Personalize."""

    # None for a pipeline that Python makes.
    _origin: _Origin | None = PrivateAttr(default=None)
    # The specs of all assets by their names, once they are built.
    _specs: dict[str, dg.AssetSpec] = PrivateAttr(default_factory=dict)

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
        self._project = context.project_root
        built_pipelines = get_built_pipelines(context.component_tree)
        built_pipelines.add(self, self._find_place(context))
        assets = self.build_assets()
        for published in self.published_pipelines:
            assets += sink_assets(published)
        self._specs = {self.asset_name(spec.key): spec for asset in assets for spec in asset.specs}
        self._require_known_assets(context)
        assets = [
            asset.map_asset_specs(lambda spec: self.get_asset_spec(self.asset_name(spec.key)))
            for asset in assets
        ]
        deployment = _open_deployment()
        executor = deployment.executor() if deployment.embedded else None
        return dg.Definitions.merge(
            dg.Definitions(assets=assets, resources=deployment.resources()),
            build_automation(self, assets, executor),
            dg.Definitions(
                sensors=alert_sensors(built_pipelines.watched)
                if built_pipelines.brings_alerts(self)
                else []
            ),
        )

    def get_asset_spec(self, name: str) -> dg.AssetSpec:
        """The spec of an asset of the pipeline, which a subclass can change but for its key.

        name: such as solution_version, or newsletter/recommendations for that of a list.
        """
        return self._specs[name]

    def change(self, settings: Mapping[str, Any]) -> Self:
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
        made._project = context.project_root
        return made

    def build_assets(self, *, report: bool = True) -> list[dg.AssetsDefinition]:
        """The assets from the raw files to the lists, segments and reports, without sinks.

        report: whether the outcomes and reports are among them.
        """
        user_lists = self.list_pipelines
        assets = [
            raw_ratings(self),
            interactions(self),
            *item_assets(self),
            *user_assets(self),
            personalize_dataset(self),
            solution_version(self),
        ]
        if not all(user_list.has_own_users for user_list in user_lists):
            assets.append(batch_users(self))
        assets += [batch_users(user_list) for user_list in user_lists if user_list.has_own_users]
        assets += [recommendations(user_list) for user_list in user_lists]
        if self.segments:
            assets += [
                segment_solution_version(self, self.segments),
                user_segments(self, self.segments),
            ]
        assets += self._build_similar_items()
        return [*assets, *self._build_reports(assets)] if report else assets

    def _build_similar_items(self) -> list[dg.AssetsDefinition]:
        """The asset of the similar items, and the one of their model if a recipe finds them."""
        pipeline, settings = self.similar_items_pipeline, self.similar_items
        if pipeline is None or settings is None:
            return []
        recipe = self.similar_items_recipe
        model = [] if recipe is None else [similar_items_solution_version(self, recipe)]
        return [*model, similar_items(pipeline, settings)]

    def _build_reports(self, assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
        """The assets of the outcomes and the reports. A report shows the checks of what its list
        is made from."""
        if not is_installed("report"):
            return []
        list_pipelines = self.list_pipelines
        reports = [recommendation_outcomes(list_pipeline) for list_pipeline in list_pipelines]
        for list_pipeline in list_pipelines:
            folder_of_list = list_pipeline.asset_key("recommendations").path[:-1]
            checks = [
                spec
                for asset in [*assets, *reports]
                if asset.key.path[:-1] in ([self.name], folder_of_list)
                for spec in asset.check_specs
            ]
            reports.append(recommendation_report(list_pipeline, checks))
        return reports

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


def _open_deployment() -> Deployment:
    """The deployment of the environment, with its folder. Raises DeploymentError."""
    deployment = Deployment.from_environment(os.environ)
    deployment.make_home()
    return deployment
