"""A declared pipeline: all settings of one YAML file, and facts that follow from several blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from batchrec_dagster.config.fitting_blocks import find_misfits
from batchrec_dagster.config.items_and_users import BatchUsers, ItemSettings, UserSettings
from batchrec_dagster.config.list_table import (
    ItemLists,
    ListTable,
    SegmentLists,
    UserLists,
    flatten_settings,
)
from batchrec_dagster.config.lists import (
    ListSettings,
    NamedLists,
    Popularity,
    RecommendationSettings,
)
from batchrec_dagster.config.problems import locate_problems, raise_problems
from batchrec_dagster.config.publication import Experiment, Gate, ReportSettings, Retention
from batchrec_dagster.config.ratings import InteractionSettings, RatingsSettings
from batchrec_dagster.config.running import (
    Alerts,
    Budget,
    OnNewFiles,
    OpSettings,
    PreparationSettings,
    Schedule,
)
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.config.settings import Matching, Settings, block
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.config.solution import Solution, Training
from batchrec_dagster.config.sources import Source
from batchrec_dagster.config.templates import fill_templates
from batchrec_dagster.personalize.schemas import (
    INTERACTIONS,
    ITEMS,
    USERS,
    Schema,
    make_interactions_schema,
)
from batchrec_dagster.preparation.row_rules import RowRules
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, PipelineKeys

PIPELINE_NAME = Matching(
    r"[A-Za-z][A-Za-z0-9_]{0,31}",
    "write a letter, then letters, digits and _, at most 32 in all",
)
Name = Annotated[str, PIPELINE_NAME]


class Pipeline(Settings):
    """A pipeline from ratings to recommendations for every user."""

    name: Name = Field(
        description="Prefix of the asset keys, of the storage paths and of the names in"
        " Personalize: letters, digits and _, at most 32.",
        examples=["movielens"],
    )
    description: str | None = Field(default=None, description="What the pipeline is for.")
    ratings: RatingsSettings = block(RatingsSettings)
    interactions: InteractionSettings = block(
        InteractionSettings, default_factory=InteractionSettings
    )
    preparation: PreparationSettings = block(
        PreparationSettings, default_factory=PreparationSettings
    )
    items: ItemSettings | None = block(ItemSettings, default=None)
    users: UserSettings | None = block(UserSettings, default=None)
    solution: Solution = block(Solution, default_factory=Solution)
    batch_users: BatchUsers = block(BatchUsers, default_factory=BatchUsers)
    recommendations: RecommendationSettings = block(
        RecommendationSettings, default_factory=RecommendationSettings
    )
    lists: NamedLists = Field(
        default={},
        description="Several lists of one model, in place of `recommendations`: each has a name"
        " and its own settings.",
    )
    similar_items: SimilarItems | None = block(SimilarItems, default=None)
    popularity: Popularity = block(Popularity, default_factory=Popularity)
    gate: Gate = block(Gate, default_factory=Gate)
    retention: Retention = block(Retention, default_factory=Retention)
    report: ReportSettings = block(ReportSettings, default_factory=ReportSettings)
    experiment: Experiment | None = block(Experiment, default=None)
    segments: Segments | None = block(Segments, default=None)
    sinks: Sinks = block(Sinks, default_factory=Sinks)
    budget: Budget = block(Budget, default_factory=Budget)
    op: dict[str, OpSettings] = Field(
        default={},
        description="How Dagster runs the step of an asset, by its name, such as"
        ' solution_version or newsletter/recommendations, or of all by "*". What an asset sets'
        " itself counts before that.",
        examples=[{"solution_version": {"pool": "training"}}],
    )
    schedule: Schedule = block(Schedule, default_factory=Schedule)
    alerts: Alerts = block(Alerts, default_factory=Alerts)
    on_new_files: OnNewFiles = block(OnNewFiles, default_factory=OnNewFiles)

    # The folder where relative paths start.
    _project: Path = PrivateAttr(default=Path())

    @model_validator(mode="wrap")
    @classmethod
    def _from_templates(cls, settings: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(settings, Mapping):
            settings = fill_templates(settings, os.environ)
        try:
            return validate(settings)
        except ValidationError as error:
            raise locate_problems(error, settings, _build_schema()) from None

    @model_validator(mode="after")
    def _blocks_fit_each_other(self) -> Self:
        raise_problems(find_misfits(self))
        return self

    def in_project(self, folder: Path) -> Pipeline:
        """Return a copy of the pipeline for a project.

        folder: the folder where relative paths start.
        """
        values = {name: getattr(self, name) for name in Pipeline.model_fields}
        pipeline = Pipeline.model_construct(self.model_fields_set, **values)
        pipeline._project = folder
        return pipeline

    @property
    def project(self) -> Path:
        """The folder where relative paths start."""
        return self._project

    @property
    def sources(self) -> list[Source]:
        """The declared sources of all blocks."""
        sources: list[Source | None] = [self.ratings, self.items, self.users]
        if self.similar_items is not None:
            sources.append(self.similar_items.items)
        for published in self.published_lists():
            sources.append(published.batch_users)
            if published.settings.rules is not None:
                sources.append(published.settings.rules.block)
        return [source for source in sources if source is not None]

    def published_lists(self) -> tuple[ListTable, ...]:
        """Return all tables that the pipeline publishes, for users, items and segments."""
        optional: list[ListTable | None] = [self.similar_items_list, self.segments_list]
        return (*self.user_lists, *(published for published in optional if published is not None))

    @property
    def user_lists(self) -> tuple[UserLists, ...]:
        """The lists of users: a list without a name, or a list for each key of `lists`."""
        if not self.lists:
            only_list = UserLists(
                pipeline=self,
                name="",
                description=self.description,
                settings=self.recommendations,
                batch_users=self.batch_users,
                gate=self.gate,
                retention=self.retention,
                experiment=self.experiment,
                sinks=self.sinks,
            )
            return (only_list,)
        return tuple(self._build_user_list(name, settings) for name, settings in self.lists.items())

    def _build_user_list(self, name: str, settings: ListSettings) -> UserLists:
        return UserLists(
            pipeline=self,
            name=name,
            description=settings.description or self.description,
            settings=settings.recommendations,
            batch_users=settings.users or self.batch_users,
            gate=settings.gate or self.gate,
            retention=settings.retention or self.retention,
            experiment=settings.experiment,
            sinks=settings.sinks,
        )

    @property
    def similar_items_list(self) -> ItemLists | None:
        """The table of similar items; None if it is not declared."""
        settings = self.similar_items
        if settings is None:
            return None
        return ItemLists(
            pipeline=self,
            name=SIMILAR_ITEMS,
            similar_items=settings,
            settings=settings.recommendations,
            # The pipeline's gate limits the metrics of users' lists only.
            gate=settings.gate or Gate(),
            retention=settings.retention or self.retention,
            sinks=settings.named_sinks,
        )

    @property
    def segments_list(self) -> SegmentLists | None:
        """The table of segments; None if no segments are declared."""
        settings = self.segments
        if settings is None:
            return None
        return SegmentLists(
            pipeline=self,
            name=SEGMENTS,
            segments=settings,
            settings=settings.recommendations,
            gate=Gate(),
            # One older edition is enough, because nothing rolls segments back.
            retention=Retention(editions=1, models=self.retention.models),
        )

    @property
    def keys(self) -> PipelineKeys:
        """The storage keys of the files that all lists share."""
        return PipelineKeys(self.name)

    def asset_key(self, asset: str) -> list[str]:
        """Return the key path of the pipeline's asset with this name."""
        return [self.name, asset]

    @property
    def excludes_seen(self) -> bool:
        """Whether any list leaves out items that its users had."""
        return any(published.settings.seen_items is not None for published in self.user_lists)

    @property
    def popularity_settings(self) -> tuple[Popularity, list[str]]:
        """The settings that decide which items are popular, as input for a fingerprint."""
        return self.popularity, self.solution.success

    @property
    def has_titles(self) -> bool:
        """Whether titles of items are declared."""
        return self.items is not None and self.items.layout.title is not None

    @property
    def has_addresses(self) -> bool:
        """Whether addresses of items' pictures or pages are declared."""
        return self.items is not None and bool(self.items.layout.addresses)

    @property
    def rules(self) -> RowRules:
        """The rules that decide which rows of the ratings become interactions."""
        columns = self.ratings.columns
        has_event_type = columns is not None and columns.event_type is not None
        return self.interactions.rules(
            self.ratings.on_bad_rows,
            event_type=has_event_type or self.excludes_seen,
        )

    @property
    def has_event_values(self) -> bool:
        """Whether interactions have an EVENT_VALUE."""
        columns = self.ratings.columns
        return columns is not None and columns.event_value is not None

    @property
    def interactions_columns(self) -> list[str]:
        """The columns of the interactions, in their order."""
        return self._interactions_schema.columns

    @property
    def _interactions_schema(self) -> Schema:
        return make_interactions_schema(
            event_type=self.rules.event_type, event_value=self.has_event_values
        )

    @property
    def schemas(self) -> dict[str, str]:
        """The Avro schema of each dataset type in Personalize, interactions first."""
        declared = {
            INTERACTIONS: self._interactions_schema.avro,
            ITEMS: self.items.layout.schema if self.items else None,
            USERS: self.users.layout.schema if self.users else None,
        }
        return {kind: schema for kind, schema in declared.items() if schema is not None}

    @property
    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide the lists' input data, by path such as interactions.min_rating.

        Defaults and the queries of URLs are left out.
        """
        blocks = {
            name: getattr(self, name) for name in ("ratings", "interactions", "items", "users")
        }
        return flatten_settings(blocks, self.project)

    @property
    def trainings(self) -> dict[str, Training]:
        """The recipe and parameters of each asset that trains a model."""
        trainings = {"solution_version": self.solution.training}
        if self.segments:
            trainings["segment_solution_version"] = Training(self.segments.recipe, {})
        recipe = self.similar_items_recipe
        if recipe is not None:
            trainings["similar_items_solution_version"] = Training(recipe, {})
        return trainings

    @property
    def similar_items_recipe(self) -> str | None:
        """The recipe that finds similar items; None if no model is trained for them."""
        if self.similar_items is None:
            return None
        return self.similar_items.choose_recipe(has_item_data=ITEMS in self.schemas)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the pipeline's resources in Personalize."""
        return {"batchrec:pipeline": self.name}


@cache
def _build_schema() -> dict[str, Any]:
    return Pipeline.model_json_schema()


# The type of the field `pipeline` is known from here on.
for kind in (ListTable, UserLists, ItemLists, SegmentLists):
    kind.model_rebuild()
