"""A table that a pipeline publishes: lists of users, similar items, or segments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, SkipValidation

from batchrec_dagster.config.items_and_users import BatchUsers
from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.config.publication import Experiment, Gate, Retention
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, ListKeys, is_of_list

if TYPE_CHECKING:
    from batchrec_dagster.config.declaration import Pipeline

Subject = Literal["user", "item", "segment"]
"""The kind of subject that each list of a table is for."""


class PublishedList(BaseModel, frozen=True):
    """A table of lists that people read, with the settings that can differ from list to list.

    Settings that are not here, such as the sources, are shared with the pipeline's other lists.
    """

    pipeline: SkipValidation[Pipeline] = Field(repr=False)
    name: str
    """A key of `lists`, similar_items or segments; empty for the only list of a pipeline."""
    subject: Subject
    description: str | None = None
    settings: RecommendationSettings
    """The settings for the content of each list."""
    batch_users: BatchUsers = Field(default_factory=BatchUsers)
    """The users who get a list."""
    gate: Gate
    retention: Retention
    experiment: Experiment | None = None
    sinks: Sinks = Field(default_factory=Sinks)

    @property
    def address(self) -> str:
        """The name in commands and the storage: `shop`, or `shop/newsletter`."""
        return f"{self.pipeline.name}/{self.name}" if self.name else self.pipeline.name

    @property
    def setting(self) -> str:
        """The prefix of the names of the list's settings.

        It is `recommendations`, `lists.newsletter`, `similar_items` or `segments`.
        """
        if self.subject != "user":
            return self.name
        return f"lists.{self.name}" if self.name else "recommendations"

    @property
    def own_keys(self) -> list[str]:
        """The path of keys to the block with the list's own settings.

        The path is empty for the only list of a pipeline: the settings of that list are at the top
        level.
        """
        return self.setting.split(".") if self.name else []

    @property
    def has_own_users(self) -> bool:
        """Whether the list has its own users' file, not the file of the whole pipeline."""
        declared = self.pipeline.lists.get(self.name)
        return declared is not None and declared.users is not None

    @property
    def users_setting(self) -> str:
        """The name of the block that selects the list's users, such as `batch_users`."""
        return f"{self.setting}.users" if self.has_own_users else "batch_users"

    @property
    def keys(self) -> ListKeys:
        """The storage keys of the list's own files and of its pipeline's files."""
        return ListKeys(self.address)

    @property
    def users_key(self) -> str:
        """The storage key of the users who get a list."""
        keys = self.keys
        return keys.users_of_list if self.has_own_users else keys.job_input("batch_inference")

    @property
    def users_record(self) -> str:
        """The storage key of the record of the users who get a list."""
        name = "batch_users"
        return self.keys.list_record(name) if self.has_own_users else self.keys.record(name)

    @property
    def asset(self) -> str:
        """The asset name of the table: `recommendations`, `similar_items` or `user_segments`."""
        return self.keys.table_name

    @property
    def divides_users(self) -> bool:
        """Whether some users of the list get popular items or nothing, not the model's items."""
        return self.experiment is not None or self.settings.newcomers is not None

    @property
    def model_asset(self) -> str | None:
        """The asset name of the model; None if items bought together are counted."""
        models = {"user": "solution_version", "segment": "segment_solution_version"}
        if self.subject != "item":
            return models[self.subject]
        return None if self.recipe is None else "similar_items_solution_version"

    @property
    def recipe(self) -> str | None:
        """The recipe of the model; None if items bought together are counted."""
        pipeline = self.pipeline
        if self.subject == "item":
            return pipeline.similar_items_recipe
        if self.subject == "segment" and pipeline.segments is not None:
            return pipeline.segments.recipe
        return pipeline.solution.recipe

    @property
    def is_addressed(self) -> bool:
        """Whether commands, jobs and records of runs use the list's address.

        Segments belong to their pipeline's lists. No command shows them or rolls them back
        separately.
        """
        return self.subject != "segment"

    def asset_key(self, asset: str) -> list[str]:
        """Return the key path of the list's asset, or of an asset that all lists share."""
        is_own = is_of_list(asset) or (asset == "batch_users" and self.has_own_users)
        if is_own and self.keys.is_named_list:
            return [self.pipeline.name, self.name, asset]
        return self.pipeline.asset_key(asset)

    @property
    def columns(self) -> list[str]:
        """The declared columns of the lists: columns of the items, and reasons."""
        if self.settings.columns is not None:
            return self.settings.columns
        return ["title"] if self.pipeline.has_titles else []

    @property
    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide the content of lists, by path such as interactions.min_rating.

        Defaults are left out. The queries of URLs are left out too, because they may be signatures.
        An absolute path in the project is stored as a relative path, so that two ways to write the
        same path do not count as a change.
        """
        pipeline = self.pipeline
        blocks = {
            name: getattr(pipeline, name) for name in ("ratings", "interactions", "items", "users")
        }
        if self.subject == "item":
            blocks[SIMILAR_ITEMS] = pipeline.similar_items
        elif self.subject == "segment":
            blocks[SEGMENTS] = pipeline.segments
        else:
            blocks |= {
                "solution": pipeline.solution,
                "batch_users": self.batch_users,
                "recommendations": self.settings,
                "popularity": pipeline.popularity,
                "experiment": self.experiment,
            }
        return flatten_settings(blocks, pipeline.project)


def flatten_settings(blocks: Mapping[str, BaseModel | None], project: Path) -> dict[str, Any]:
    """Return the settings of the blocks by path, without defaults and the queries of URLs.

    project: the folder where relative paths start.
    """
    settings = _flatten(
        {
            name: block.model_dump(mode="json", exclude_defaults=True)
            for name, block in blocks.items()
            if block is not None
        }
    )
    folder = f"{project.absolute()}/"
    return {
        name: value.removeprefix(folder) if isinstance(value, str) else value
        for name, value in settings.items()
        # `deps` decides which assets a run waits for, not the content of lists.
        if not name.endswith(".deps")
    }


def _flatten(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{path}{name}.")
        else:
            flat[path + name] = hide_query(value) if isinstance(value, str) else value
    return flat
