"""The component of the YAML: wires a declared pipeline to Dagster's definitions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.changed_declaration import explain_trial_error
from batchrec_dagster.config.declaration_errors import (
    DeclarationError,
    build_validation_error,
    find_repeated_settings,
)
from batchrec_dagster.config.templates import Sandboxed
from batchrec_dagster.config.trial import (
    MOST_DAYS,
    Trial,
    TrialError,
    apply_settings,
    find_lists_about_orders,
    require_same_lists_about_orders,
)
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.pipeline.assets.after_order import after_order_lists
from batchrec_dagster.pipeline.assets.items import item_assets
from batchrec_dagster.pipeline.assets.prepared import batch_users, interactions
from batchrec_dagster.pipeline.assets.raw import raw_ratings
from batchrec_dagster.pipeline.assets.recommendations import recommendations
from batchrec_dagster.pipeline.assets.reports import (
    recommendation_outcomes,
    recommendation_report,
    report_of_lists,
)
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
from batchrec_dagster.pipeline.automation.runs import build_console_logger, name_trial_job
from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
from batchrec_dagster.pipeline.declare_asset import PREPARED, RAW
from batchrec_dagster.pipeline.scaffolding import PipelineScaffolder
from batchrec_dagster.storage.extras import is_installed


@dataclass(frozen=True)
class _Origin:
    """What a pipeline was loaded from. Trials and rehearsals load it again, with changes."""

    file: Path
    """The defs.yaml that declares it."""
    attributes: BaseModel
    """Its attributes, before templates are filled in."""
    context: dg.ComponentLoadContext

    @property
    def declared_settings(self) -> dict[str, Any]:
        """The attributes that are declared, as plain data."""
        return self.attributes.model_dump(mode="json", exclude_unset=True)


@dg.scaffold_with(PipelineScaffolder)
class BatchRecommendations(Sandboxed, Pipeline, dg.Component):
    """Recommendations for every user from a file of ratings, with Amazon Personalize."""

    # None for a pipeline that Python makes.
    _origin: _Origin | None = PrivateAttr(default=None)
    _has_same_data: bool = PrivateAttr(default=False)

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
        assets = self._build_assets()
        assets += self._build_reports(assets, with_outcomes=True)
        for published in self.published_pipelines:
            assets += sink_assets(published)
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

    def make_trial(self, trial: Trial) -> "BatchRecommendations":
        """The pipeline with the trial's changes, which writes to a folder of its own and no sinks.

        Raises TrialError if the changed settings are not valid.
        """
        origin = self._require_origin()
        changed = self._change_for_trial(origin, trial)
        try:
            made = self._load_changed(origin, changed, trial)
        except DeclarationError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            text = explain_trial_error(origin.file, self.name, trial, error.__cause__)
            raise TrialError(text) from error
        made._trial = trial
        if trial.list_name is not None and trial.list_name not in made.lists:
            names = ", ".join(made.lists) or "it has one list, without a name"
            raise TrialError(f"{self.name} has no list {trial.list_name!r}: {names}")
        # By value, as the keys of the trial's assets are others.
        has_same_versions = [*made._read_versions_of_data().values()] == [
            *self._read_versions_of_data().values()
        ]
        made._has_same_data = trial.as_of is None and has_same_versions
        # A backtest measures the lists of all its days.
        made.retention = made.retention.model_copy(update={"editions": MOST_DAYS})
        return made

    def make_rehearsal(self, settings: Mapping[str, Any]) -> "BatchRecommendations":
        """The pipeline with other settings, for a run in a home of its own.

        It has no sinks and no alerts, so that it reaches nobody.
        settings: the changed ones by their path, such as ratings.source.
        Raises TrialError if they are not valid, and DeclarationError if they are not together.
        """
        origin = self._require_origin()
        changed = apply_settings(origin.declared_settings, settings)
        for block in [changed, *(changed.get("lists") or {}).values()]:
            block.pop("sinks", None)
        changed.pop("alerts", None)
        (changed.get("assets") or {}).pop("published_io", None)
        return self._load_changed(origin, changed, Trial.parse(settings))

    def _require_origin(self) -> _Origin:
        """What it was loaded from. Raises TrialError for a pipeline that Python makes."""
        if self._origin is None:
            raise TrialError(f"{self.name} is declared in Python: change it there")
        return self._origin

    def _change_for_trial(self, origin: _Origin, trial: Trial) -> dict[str, Any]:
        """The attributes with the trial's settings, and without what a trial does not make.

        Raises TrialError if it changes or names a list that is about orders.
        """
        declared = origin.declared_settings
        changed = apply_settings(declared, trial.settings)
        require_same_lists_about_orders(declared, changed, trial)
        similar_items = changed.pop("similar_items", None) or {}
        if similar_items.get("order") is not None:
            # The interactions have its column, so that they stay those of the pipeline.
            changed["similar_items"] = {"order": similar_items["order"]}
        for block in ("sinks", "segments"):
            changed.pop(block, None)
        lists = changed.get("lists") or {}
        for name in find_lists_about_orders(changed):
            lists.pop(name)
        for settings in lists.values():
            settings.pop("sinks", None)
            # Of the trial's editions, all are kept.
            settings.pop("retention", None)
        return changed

    def _load_changed(self, origin: _Origin, changed: Mapping[str, Any], trial: Trial) -> Self:
        """The pipeline that the changed attributes declare, in the same project.

        trial: what was changed, for messages.
        Raises TrialError if they are not valid, and DeclarationError if they are not together.
        """
        try:
            attributes = type(origin.attributes).model_validate(changed)
            made = self.load(attributes, origin.context)
        except ValidationError as error:
            raise TrialError(explain_trial_error(origin.file, self.name, trial, error)) from error
        made._project = origin.context.project_root
        return made

    def build_rehearsal_defs(self, deployment: Deployment, *, report: bool) -> dg.Definitions:
        """The assets of the pipeline in this deployment, and the job `NAME_refresh`."""
        assets = self._build_assets()
        if report:
            assets += self._build_reports(assets, with_outcomes=True)
        keys = [key for asset in assets for key in asset.keys]
        job = dg.define_asset_job(
            f"{self.name}_refresh",
            dg.AssetSelection.assets(*keys),
            executor_def=deployment.executor(),
        )
        return dg.Definitions(assets=assets, jobs=[job], resources=deployment.resources())

    @property
    def has_same_data(self) -> bool:
        """Whether the trial's data are those that the pipeline prepared last, as nothing that it
        changes decides what they are."""
        return self._has_same_data

    def _read_versions_of_data(self) -> dict[dg.AssetKey, str | None]:
        """The code version of each asset that prepares data for Personalize."""
        return {
            spec.key: spec.code_version
            for asset in self._build_assets()
            for spec in asset.specs
            if spec.tags.get("stage") in (RAW, PREPARED)
        }

    def build_trial_defs(self) -> dg.Definitions:
        """The assets of this trial, and the job `NAME_trial` that makes them."""
        is_of_earlier_day = self.trial is not None and self.trial.as_of is not None
        assets = self._build_assets()
        assets += self._build_reports(assets, with_outcomes=is_of_earlier_day)
        # What the pipeline has prepared last is copied, and not prepared again.
        copied = self._read_versions_of_data().keys() if self.has_same_data else ()
        keys = [key for asset in assets for key in asset.keys if key not in copied]
        deployment = _open_deployment()
        job = dg.define_asset_job(
            name=name_trial_job(self.name),
            selection=dg.AssetSelection.assets(*keys),
            config={"loggers": {"console": {}}},
            executor_def=deployment.executor(),
            description="Makes the lists of a trial, which nobody reads.",
        )
        return dg.Definitions(
            assets=assets,
            jobs=[job],
            resources=deployment.resources(),
            loggers={"console": build_console_logger(deployment.log_format)},
        )

    def _build_assets(self) -> list[dg.AssetsDefinition]:
        """The assets from the raw files to the lists and segments."""
        user_lists = self.user_list_pipelines
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
        assets += [recommendations(list_pipeline) for list_pipeline in self.list_pipelines]
        if self.segments:
            assets += [
                segment_solution_version(self, self.segments),
                user_segments(self, self.segments),
            ]
        assets += self._build_similar_items()
        assets += [after_order_lists(list_pipeline) for list_pipeline in self.after_order_pipelines]
        return assets

    def _build_similar_items(self) -> list[dg.AssetsDefinition]:
        """The asset of the similar items, and the one of their model if a recipe finds them."""
        pipeline, settings = self.similar_items_pipeline, self.similar_items
        if pipeline is None or settings is None:
            return []
        recipe = self.similar_items_recipe
        model = [] if recipe is None else [similar_items_solution_version(self, recipe)]
        return [*model, similar_items(pipeline, settings)]

    def _build_reports(
        self, assets: Sequence[dg.AssetsDefinition], *, with_outcomes: bool
    ) -> list[dg.AssetsDefinition]:
        """The assets of the outcomes and the reports. A report shows the checks of what its list
        is made from."""
        if not is_installed("report"):
            return []
        list_pipelines = self.user_list_pipelines
        reports = (
            [recommendation_outcomes(list_pipeline) for list_pipeline in list_pipelines]
            if with_outcomes
            else []
        )
        folder_of_pipeline = self.key_prefix
        for list_pipeline in list_pipelines:
            folder_of_list = list_pipeline.asset_key("recommendations").path[:-1]
            checks = [
                spec
                for asset in [*assets, *reports]
                if asset.key.path[:-1] in (folder_of_pipeline, folder_of_list)
                for spec in asset.check_specs
            ]
            reports.append(recommendation_report(list_pipeline, checks))
        if self.lists and self.trial is None:
            reports.append(report_of_lists(self))
        return reports

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
