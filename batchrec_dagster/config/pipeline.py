"""A declared pipeline: all that one YAML says, and what follows from several of its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from batchrec_dagster.config.block_problems import require_fitting_blocks
from batchrec_dagster.config.declaration import Declaration
from batchrec_dagster.config.expression_problems import find_expression_problems
from batchrec_dagster.config.gate import Gate
from batchrec_dagster.config.lists import ListSettings
from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.config.published_list import PublishedList, flatten_settings
from batchrec_dagster.config.retention import Retention
from batchrec_dagster.config.solution import Training
from batchrec_dagster.config.validation import build_field_errors
from batchrec_dagster.personalize.schemas import (
    INTERACTIONS,
    ITEMS,
    USERS,
    Schema,
    make_interactions_schema,
)
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, PipelineKeys


class Pipeline(Declaration, frozen=True):
    """A pipeline from ratings to recommendations for every user."""

    project: Path = Path()
    """The folder where relative paths start."""

    @model_validator(mode="after")
    def _blocks_fit_each_other(self) -> Pipeline:
        require_fitting_blocks(self)
        return self

    @model_validator(mode="after")
    def _expressions_fit_the_datasets(self) -> Pipeline:
        problems = find_expression_problems(self)
        if problems:
            raise build_field_errors(problems)
        return self

    def published_lists(self) -> tuple[PublishedList, ...]:
        """Each table that it publishes: the users' lists, similar items and segments."""
        others = [self.similar_items_list, self.segments_list]
        return (*self.user_lists, *(published for published in others if published is not None))

    @property
    def user_lists(self) -> tuple[PublishedList, ...]:
        """The lists of users: one without a name, or one for each key of `lists`."""
        if not self.lists:
            only_list = PublishedList(
                pipeline=self,
                name="",
                subject="user",
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

    def _build_user_list(self, name: str, settings: ListSettings) -> PublishedList:
        return PublishedList(
            pipeline=self,
            name=name,
            subject="user",
            description=settings.description or self.description,
            settings=settings.recommendations,
            batch_users=settings.users or self.batch_users,
            gate=settings.gate or self.gate,
            retention=settings.retention or self.retention,
            experiment=settings.experiment,
            sinks=settings.sinks,
        )

    @property
    def similar_items_list(self) -> PublishedList | None:
        """The lists of the items that go with each item; None if none are declared."""
        settings = self.similar_items
        if settings is None:
            return None
        return PublishedList(
            pipeline=self,
            name=SIMILAR_ITEMS,
            subject="item",
            settings=settings.recommendations,
            # What the pipeline asks of lists for users says nothing of other metrics.
            gate=settings.gate or Gate(),
            retention=settings.retention or self.retention,
            sinks=settings.named_sinks,
        )

    @property
    def segments_list(self) -> PublishedList | None:
        """The lists of the users of each segment; None if none are declared."""
        settings = self.segments
        if settings is None:
            return None
        return PublishedList(
            pipeline=self,
            name=SEGMENTS,
            subject="segment",
            settings=settings.recommendations,
            gate=Gate(),
            # Nothing rolls segments back.
            retention=Retention(editions=1, models=self.retention.models),
        )

    @property
    def keys(self) -> PipelineKeys:
        """The storage keys of what all of its lists are made from."""
        return PipelineKeys(self.name)

    def asset_key(self, asset: str) -> list[str]:
        """The path of the key of the pipeline's asset of this name."""
        return [self.name, asset]

    @property
    def excludes_seen(self) -> bool:
        """Whether a list leaves out what its users had."""
        return any(published.settings.seen_items is not None for published in self.user_lists)

    @property
    def popularity_settings(self) -> tuple[Popularity, list[str]]:
        """The settings that decide which items are popular, for a fingerprint."""
        return self.popularity, self.solution.success

    @property
    def has_titles(self) -> bool:
        """Whether titles of items are declared."""
        return self.items is not None and self.items.layout.title is not None

    @property
    def has_addresses(self) -> bool:
        """Whether addresses of pictures or pages are declared, which stand with the titles."""
        return self.items is not None and bool(self.items.layout.addresses)

    @property
    def rules(self) -> Rules:
        """Which rows of the ratings become interactions."""
        columns = self.ratings.columns
        has_event_type = columns is not None and columns.event_type is not None
        return self.interactions.rules(
            self.ratings.on_bad_rows,
            event_type=has_event_type or self.excludes_seen,
        )

    @property
    def event_value(self) -> bool:
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
            event_type=self.rules.event_type, event_value=self.event_value
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
        """The settings that decide which data the lists are made from, as those of a
        `PublishedList`."""
        blocks = {
            name: getattr(self, name) for name in ("ratings", "interactions", "items", "users")
        }
        return flatten_settings(blocks, self.project)

    @property
    def trainings(self) -> dict[str, Training]:
        """What each asset of a model trains."""
        trainings = {"solution_version": self.solution.training}
        if self.segments:
            trainings["segment_solution_version"] = Training(self.segments.recipe, {})
        recipe = self.similar_items_recipe
        if recipe is not None:
            trainings["similar_items_solution_version"] = Training(recipe, {})
        return trainings

    @property
    def similar_items_recipe(self) -> str | None:
        """The recipe that finds similar items; None if there is none to train."""
        if self.similar_items is None:
            return None
        return self.similar_items.choose_recipe(has_item_data=ITEMS in self.schemas)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of what it creates in Personalize."""
        return {"batchrec:pipeline": self.name}


# Its field `pipeline` can be resolved from here on.
PublishedList.model_rebuild()
