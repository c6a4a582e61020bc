"""A declared pipeline as everything else sees it: whole, or narrowed to one of its lists."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import PrivateAttr, model_validator

from batchrec_dagster.config.block_problems import require_fitting_blocks
from batchrec_dagster.config.declaration import Declaration
from batchrec_dagster.config.expression_problems import find_expression_problems
from batchrec_dagster.config.gate import Gate
from batchrec_dagster.config.lists import ListSettings
from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.config.project import OpSettings
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.config.solution import Training
from batchrec_dagster.config.validation import build_field_errors
from batchrec_dagster.personalize.schemas import (
    INTERACTIONS,
    ITEMS,
    USERS,
    build_interactions_schema,
    list_interactions_columns,
)
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.storage.layout import SIMILAR_ITEMS, StorageKeys, is_of_list


def _flatten(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Each setting by its path, such as interactions.min_rating, without the queries of URLs."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{path}{name}.")
        else:
            flat[path + name] = hide_query(value) if isinstance(value, str) else value
    return flat


class Pipeline(Declaration):
    """A pipeline from ratings to recommendations for every user."""

    _project: Path = PrivateAttr(default=Path())
    # The name of the list that it is narrowed to, and the whole pipeline; see `list_pipelines`.
    _list_name: str | None = PrivateAttr(default=None)
    _whole: Self | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _blocks_fit_each_other(self) -> Self:
        require_fitting_blocks(self)
        return self

    @model_validator(mode="after")
    def _expressions_fit_the_datasets(self) -> Self:
        problems = find_expression_problems(self)
        if problems:
            raise build_field_errors(problems)
        return self

    @property
    def list_pipelines(self) -> list[Self]:
        """This pipeline, narrowed to each list that the model makes.

        Without `lists` it is itself that. A narrowed pipeline has one list: its settings are in
        `recommendations`, `batch_users`, `gate`, `retention`, `experiment` and `sinks`, and its
        published files are in a folder of its own. All other settings, assets and files are those
        of the whole pipeline.
        """
        if not self.lists:
            return [self.whole]
        return [self.whole._narrow_to(name, settings) for name, settings in self.lists.items()]

    @property
    def similar_items_pipeline(self) -> Self | None:
        """This pipeline, narrowed to the lists of similar items; None if it declares none.

        Its `recommendations` have what these lists have in common with those of users.
        """
        if self.similar_items is None:
            return None
        return self.whole._narrow_to(SIMILAR_ITEMS, self.similar_items)

    @property
    def published_pipelines(self) -> list[Self]:
        """This pipeline, narrowed to each table that it publishes: its lists and similar items."""
        similar_items = self.similar_items_pipeline
        others = [similar_items] if similar_items is not None else []
        return [*self.list_pipelines, *others]

    def _narrow_to(self, name: str, settings: ListSettings | SimilarItems) -> Self:
        own_blocks: dict[str, Any] = {
            "recommendations": settings.recommendations,
            # What the pipeline asks of lists for users says nothing of other metrics.
            "gate": settings.gate or (self.gate if isinstance(settings, ListSettings) else Gate()),
            "retention": settings.retention or self.retention,
            "experiment": None,
            "sinks": settings.sinks,
        }
        if isinstance(settings, ListSettings):
            own_blocks["description"] = settings.description or self.description
            own_blocks["batch_users"] = settings.users or self.batch_users
            own_blocks["experiment"] = settings.experiment
        narrowed = self.model_copy(update=own_blocks)
        narrowed._list_name = name
        narrowed._whole = self
        # The values of cached properties are copied too, and those of addresses differ.
        narrowed.__dict__.pop("storage_keys", None)
        return narrowed

    @property
    def whole(self) -> Self:
        """The pipeline with all of its lists, which is itself unless it is narrowed to one."""
        return self if self._whole is None else self._whole

    @property
    def list_name(self) -> str | None:
        """The name of the list that this pipeline is narrowed to; None for one without `lists`,
        and for the whole pipeline."""
        return self._list_name

    @property
    def address(self) -> str:
        """What commands and the storage call it: `shop`, or `shop/newsletter` for a list."""
        return self.name if self._list_name is None else f"{self.name}/{self._list_name}"

    @property
    def job_prefix(self) -> str:
        """What the names of its jobs start with: `shop`, or `shop__newsletter` for a list."""
        return self.address.replace("/", "__")

    @property
    def list_setting(self) -> str:
        """What the names of the list's settings start with, such as `recommendations`."""
        if self.is_of_items:
            return SIMILAR_ITEMS
        return "recommendations" if self._list_name is None else f"lists.{self._list_name}"

    @property
    def is_of_items(self) -> bool:
        """Whether it is narrowed to the lists of similar items, which items have, not users."""
        return self._list_name == SIMILAR_ITEMS

    @property
    def published_asset(self) -> str:
        """The name of the asset of its published table."""
        return SIMILAR_ITEMS if self.is_of_items else "recommendations"

    @property
    def users_setting(self) -> str:
        """The name of the settings of its users, such as `batch_users`."""
        return f"{self.list_setting}.users" if self.has_own_users else "batch_users"

    @property
    def has_own_users(self) -> bool:
        """Whether it is a list whose users' file is not that of the whole pipeline."""
        settings = self.lists.get(self._list_name or "")
        return settings is not None and settings.users is not None

    @property
    def excludes_seen(self) -> bool:
        """Whether a list leaves out what its users had."""
        lists = [list_pipeline.recommendations for list_pipeline in self.list_pipelines]
        return any(settings.seen_items is not None for settings in lists)

    @property
    def upstream(self) -> list[dg.AssetKey]:
        """The assets of others that its data come from, or that their files do."""
        blocks = [self.ratings, self.items, self.users, self.batch_users]
        blocks += [settings.users for settings in self.lists.values()]
        keys = [key for block in blocks if block is not None for key in block.upstream]
        return [*dict.fromkeys(keys)]

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
    def list_columns(self) -> list[str]:
        """The columns of the items and the reasons that lists have, as they are declared."""
        if self.recommendations.columns is not None:
            return self.recommendations.columns
        return ["title"] if self.has_titles else []

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
        return list_interactions_columns(
            event_type=self.rules.event_type, event_value=self.event_value
        )

    @property
    def schemas(self) -> dict[str, str]:
        """The Avro schema of each dataset type in Personalize, interactions first."""
        interactions = build_interactions_schema(
            event_type=self.rules.event_type, event_value=self.event_value
        )
        declared = {
            INTERACTIONS: interactions,
            ITEMS: self.items.layout.schema if self.items else None,
            USERS: self.users.layout.schema if self.users else None,
        }
        return {kind: schema for kind, schema in declared.items() if schema is not None}

    @property
    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide what is in the lists, by path such as interactions.min_rating.

        Defaults are left out, and so are the queries of URLs, which may be signatures. A file in
        the project is the same file by its relative and its absolute path, so the relative one
        stands here.
        """
        blocks: dict[str, dg.Model | None] = {
            "ratings": self.ratings,
            "interactions": self.interactions,
            "items": self.items,
            "users": self.users,
            "solution": self.solution,
            "batch_users": self.batch_users,
            "recommendations": self.recommendations,
            "popularity": self.popularity,
            "experiment": self.experiment,
        }
        if self.is_of_items:
            others = ("solution", "batch_users", "recommendations", "popularity")
            blocks = {name: block for name, block in blocks.items() if name not in others}
            blocks[SIMILAR_ITEMS] = self.similar_items
        settings = _flatten(
            {
                name: block.model_dump(mode="json", exclude_defaults=True)
                for name, block in blocks.items()
                if block is not None
            }
        )
        # They decide what a run waits for.
        for block in ("ratings", "items", "users", "batch_users"):
            settings.pop(f"{block}.deps", None)
        project = f"{self.project.absolute()}/"
        return {
            name: value.removeprefix(project) if isinstance(value, str) else value
            for name, value in settings.items()
        }

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
    def project(self) -> Path:
        """The folder where relative paths start."""
        return self._project

    @cached_property
    def storage_keys(self) -> StorageKeys:
        """The pipeline's storage keys."""
        return StorageKeys(self.address, has_own_users=self.has_own_users)

    def asset_key(self, asset: str) -> dg.AssetKey:
        """The key of the pipeline's asset of this name."""
        list_name = self._list_name
        belongs_to_list = is_of_list(asset) or (asset == "batch_users" and self.has_own_users)
        if list_name is None or not belongs_to_list:
            return dg.AssetKey([self.name, asset])
        return dg.AssetKey([self.name, list_name, asset])

    def asset_name(self, key: dg.AssetKey) -> str:
        """What settings call the asset of this key, such as solution_version or
        newsletter/recommendations."""
        return "/".join(key.path[1:])

    def op_name(self, asset: str) -> str:
        """The name of the asset's step in a run's config."""
        return self.asset_key(asset).to_python_identifier()

    def op_settings(self, key: dg.AssetKey) -> OpSettings:
        """How Dagster runs the step of the asset of this key."""
        names = ("*", self.asset_name(key))
        of_all, of_asset = (self.op.get(name, OpSettings()) for name in names)
        own = {name: getattr(of_asset, name) for name in of_asset.model_fields_set}
        return of_all.model_copy(update=own)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of what it creates in Personalize."""
        return {"batchrec:pipeline": self.name}
