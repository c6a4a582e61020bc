"""The whole declaration: its blocks, and the rules between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import dagster as dg
from pydantic import Field, PrivateAttr, field_validator, model_validator

from batchrec_dagster.config.batch_users import BatchUsers
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.config.expression_problems import find_expression_problems
from batchrec_dagster.config.interactions import InteractionSettings, PreparationSettings
from batchrec_dagster.config.items import ItemSettings
from batchrec_dagster.config.lists import ListSettings, validate_list_names
from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.config.project import (
    Alerts,
    AssetSettings,
    Budget,
    DeploymentSettings,
    OnNewFiles,
    Schedule,
    check_cron,
    check_zone,
)
from batchrec_dagster.config.publication import Gate, Publication
from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster.config.retention import Retention
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.config.trial import Trial
from batchrec_dagster.config.users import UserSettings
from batchrec_dagster.config.validation import build_field_errors, validate_pattern, validate_with
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.schemas import (
    INTERACTIONS,
    ITEMS,
    USERS,
    build_interactions_schema,
)
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.paths import SIMILAR_ITEMS, StorageKeys, is_of_list


def _flatten(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Each setting by its path, such as interactions.min_rating, without the queries of URLs."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{path}{name}.")
        else:
            flat[path + name] = hide_query(value) if isinstance(value, str) else value
    return flat


def _resolve(context: dg.ResolutionContext, part: dg.Model | str) -> dg.Model:
    """The block with its templates filled in, validated again with the values."""
    if isinstance(part, str):
        raise ValueError(f"write its settings on separate lines below it, not {part!r}")
    return type(part).model_validate(context.resolve_value(part.model_dump(exclude_unset=True)))


def _resolve_lists(
    context: dg.ResolutionContext, lists: Mapping[str, dg.Model | str] | str
) -> dict[str, ListSettings]:
    """The lists with their templates filled in, validated again with the values."""
    if isinstance(lists, str):
        raise ValueError(f"write the name of each list below it, not {lists!r}")
    resolved = {name: _resolve(context, settings) for name, settings in lists.items()}
    return {name: ListSettings.model_validate(settings) for name, settings in resolved.items()}


def _block(part: type[dg.Model]) -> dg.Resolver:
    """A block of the YAML, described by the docstring of its model."""
    description = " ".join((part.__doc__ or "").split())
    return dg.Resolver(_resolve, model_field_type=part, description=description)


class Pipeline(dg.Model):
    """A pipeline from ratings to recommendations for every user."""

    name: str = Field(
        description="Prefix of the asset keys, of the storage paths and of the names in"
        " Personalize: letters, digits and _, at most 32.",
        examples=["movielens"],
        # Or a template.
        json_schema_extra={"pattern": r"^([A-Za-z][A-Za-z0-9_]{0,31}|.*\{\{.*)$"},
    )
    description: Annotated[
        str | None, dg.Resolver.default(description="What the pipeline is for.")
    ] = None
    _project: Path = PrivateAttr(default=Path())
    _trial: Trial | None = PrivateAttr(default=None)
    owners: Annotated[
        list[str],
        dg.Resolver.default(description="The owners of the assets: e-mail addresses or team:NAME."),
    ] = Field(default=["team:recommendations"])
    ratings: Annotated[RatingsSettings, _block(RatingsSettings)]
    interactions: Annotated[InteractionSettings, _block(InteractionSettings)] = Field(
        default_factory=InteractionSettings
    )
    preparation: Annotated[PreparationSettings, _block(PreparationSettings)] = Field(
        default_factory=PreparationSettings
    )
    items: Annotated[ItemSettings | None, _block(ItemSettings)] = None
    users: Annotated[UserSettings | None, _block(UserSettings)] = None
    solution: Annotated[Solution, _block(Solution)] = Field(default_factory=Solution)
    batch_users: Annotated[BatchUsers, _block(BatchUsers)] = Field(default_factory=BatchUsers)
    recommendations: Annotated[RecommendationSettings, _block(RecommendationSettings)] = Field(
        default_factory=RecommendationSettings
    )
    lists: Annotated[
        dict[str, ListSettings],
        dg.Resolver(
            _resolve_lists,
            model_field_type=dict[str, ListSettings],
            description="Several lists of one model, in place of `recommendations`: each has a name"
            " and its own settings.",
        ),
    ] = Field(default_factory=dict)
    similar_items: Annotated[SimilarItems | None, _block(SimilarItems)] = None
    popularity: Annotated[Popularity, _block(Popularity)] = Field(default_factory=Popularity)
    gate: Annotated[Gate, _block(Gate)] = Field(default_factory=Gate)
    retention: Annotated[Retention, _block(Retention)] = Field(default_factory=Retention)
    # Its own description in the schema tells editors that it is no longer to be used.
    publication: Annotated[Publication | None, _block(Publication)] = Field(
        default=None, json_schema_extra={"deprecated": True}
    )
    experiment: Annotated[Experiment | None, _block(Experiment)] = None
    segments: Annotated[Segments | None, _block(Segments)] = None
    sinks: Annotated[Sinks, _block(Sinks)] = Field(default_factory=Sinks)
    budget: Annotated[Budget, _block(Budget)] = Field(default_factory=Budget)
    assets: Annotated[AssetSettings, _block(AssetSettings)] = Field(default_factory=AssetSettings)
    deployment: Annotated[DeploymentSettings, _block(DeploymentSettings)] = Field(
        default_factory=DeploymentSettings
    )
    automation: Annotated[
        str,
        dg.Resolver.default(
            description="How Dagster's declarative automation runs it: eager, whenever an upstream"
            " asset is updated; a cron schedule, then and once upstream assets are updated since;"
            " or none.",
            examples=["eager", "0 3 * * *"],
        ),
    ] = "none"
    automation_timezone: Annotated[
        str,
        dg.Resolver.default(
            description="The IANA time zone of a cron schedule in automation.",
            examples=["Europe/Berlin"],
        ),
    ] = "UTC"
    schedule: Annotated[Schedule, _block(Schedule)] = Field(default_factory=Schedule)
    alerts: Annotated[Alerts, _block(Alerts)] = Field(default_factory=Alerts)
    on_new_files: Annotated[OnNewFiles, _block(OnNewFiles)] = Field(default_factory=OnNewFiles)

    # The name of the list that it is narrowed to, and the whole pipeline; see `list_pipelines`.
    _list_name: str | None = PrivateAttr(default=None)
    _whole: Self | None = PrivateAttr(default=None)

    _list_names_are_possible = validate_list_names()

    _name_is_possible = validate_pattern(
        "name",
        pattern=r"[A-Za-z][A-Za-z0-9_]{0,31}",
        or_else="write a letter, then letters, digits and _, at most 32 in all",
    )

    @field_validator("automation")
    @classmethod
    def _automation_is_possible(cls, automation: str) -> str:
        if automation not in ("none", "eager") and "{{" not in automation:
            check_cron(automation)
        return automation

    _automation_timezone_exists = validate_with(check_zone, "automation_timezone")

    @field_validator("owners")
    @classmethod
    def _owners_can_be_reached(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not re.fullmatch(r"team:[\w.-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
                raise ValueError(f"{owner!r} is not an owner: write an e-mail address or team:NAME")
        return owners

    @model_validator(mode="after")
    def _read_former_settings(self) -> Self:
        if self.publication is None:
            return self
        if "retention" in self.model_fields_set:
            message = "is now retention.editions: remove publication, and set it there"
            raise build_field_errors({("publication", "history"): message})
        self.retention = Retention(editions=self.publication.history)
        return self

    @model_validator(mode="after")
    def _blocks_fit_each_other(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        columns = self.ratings.columns
        has_no_event_type = columns is not None and columns.event_type is None
        for key in ("event_weights", "target_events"):
            if getattr(self.solution, key) and has_no_event_type:
                raise build_field_errors({("solution", key): "needs ratings.columns.event_type"})
        if self.popularity.events and has_no_event_type:
            raise build_field_errors({("popularity", "events"): "needs ratings.columns.event_type"})
        if self.solution.event_value_threshold is not None and not self.event_value:
            key = "event_value_threshold"
            raise build_field_errors({("solution", key): "needs ratings.columns.event_value"})
        return self

    def _problems(self) -> Iterator[str]:
        """Yield what is wrong between the blocks, in sentences."""
        columns, recipes = self.ratings.columns, [*self.solution.recipes]
        has_no_rating = columns and isinstance(columns.user, int) and columns.rating is None
        if self.interactions.min_rating is not None and has_no_rating:
            yield "interactions.min_rating needs ratings.columns.rating: set it, or omit min_rating"
        needing_times = {
            "interactions.window": self.interactions.window,
            "interactions.latest_per_pair": self.interactions.latest_per_pair,
            "batch_users.active_since": self.batch_users.active_since,
            **{
                f"lists.{name}.users.active_since": settings.users.active_since
                for name, settings in self.lists.items()
                if settings.users is not None
            },
        }
        for name, value in needing_times.items() if not self.ratings.has_times else ():
            if value:
                yield (
                    f"with ratings.columns.timestamp: none there are no times, which {name} needs:"
                    " omit it. interactions.duplicates: drop keeps one row of each pair"
                )
        for view in self.list_pipelines:
            if view.recommendations.exploration_weight and recipes[0] != USER_PERSONALIZATION:
                yield (
                    f"{view.list_setting}.exploration_weight is for {USER_PERSONALIZATION} only:"
                    f" omit it, or set solution.recipe: {USER_PERSONALIZATION}"
                )
        if self.on_new_files.enabled and not self.ratings.has_visible_files:
            yield (
                "on_new_files sees new files at a path or in s3://, not at"
                f" {self.ratings.shown_source}: copy them there, or refresh by schedule"
            )

    @model_validator(mode="after")
    def _lists_replace_one_list(self) -> Self:
        if self.lists:
            replaced = ("recommendations", "sinks", "experiment")
            problems: dict[tuple[str, ...], str] = {
                (name,): "with `lists`, each list has its own: move it into a list"
                for name in replaced
                if name in self.model_fields_set
            }
            if problems:
                raise build_field_errors(problems)
        return self

    @model_validator(mode="after")
    def _lists_about_orders_have_what_they_need(self) -> Self:
        about_orders = [name for name, settings in self.lists.items() if settings.about is not None]
        if about_orders and self.similar_items is None:
            message = "needs the block similar_items, which says what goes with each item: add it"
            raise build_field_errors({("lists", name, "about"): message for name in about_orders})
        if about_orders and len(about_orders) == len(self.lists):
            raise build_field_errors(
                {("lists",): "declare a list without `about` too, which the model makes"}
            )
        return self

    @model_validator(mode="after")
    def _expressions_fit_the_datasets(self) -> Self:
        problems = find_expression_problems(self)
        if problems:
            raise build_field_errors(problems)
        return self

    @property
    def list_pipelines(self) -> list[Self]:
        """This pipeline, narrowed to each of its lists. Without `lists` it is itself that.

        A narrowed pipeline has one list: its settings are in `recommendations`, `batch_users`,
        `gate`, `retention`, `experiment` and `sinks`, and its published files are in a folder of
        its own. All other settings, assets and files are those of the whole pipeline. A trial may
        make one list alone.
        """
        only = self.trial.list_name if self.trial else None
        declared = self.declared_list_pipelines
        return [one_list for one_list in declared if only in (None, one_list.list_name)]

    @property
    def declared_list_pipelines(self) -> list[Self]:
        """The same, with the lists that a trial does not make: they still decide what is shared."""
        if not self.lists:
            return [self.whole]
        return [
            self.whole._narrow_to(name, settings)
            for name, settings in self.lists.items()
            if settings.about is None
        ]

    @property
    def after_order_pipelines(self) -> list[Self]:
        """This pipeline, narrowed to each list that is about a person's last order.

        They are lists of users too, which similar items make and not the model. A trial, which is
        of the model, has none.
        """
        if self.trial is not None:
            return []
        return [
            self.whole._narrow_to(name, settings)
            for name, settings in self.lists.items()
            if settings.about is not None
        ]

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
        return [*self.list_pipelines, *self.after_order_pipelines, *others]

    def _narrow_to(self, name: str, settings: ListSettings | SimilarItems) -> Self:
        own_blocks: dict[str, Any] = {
            "recommendations": settings.recommendations,
            # What the pipeline asks of lists for users says nothing of other metrics.
            "gate": settings.gate or (self.gate if isinstance(settings, ListSettings) else Gate()),
            "retention": settings.retention or self.retention,
            "experiment": None,
            "sinks": settings.sinks,
            "description": settings.description or self.description,
        }
        if isinstance(settings, ListSettings):
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
        settings = self.lists.get(self._list_name or "")
        has_own_block = settings is not None and settings.users is not None
        return f"{self.list_setting}.users" if has_own_block else "batch_users"

    @property
    def has_own_users(self) -> bool:
        """Whether it is a list whose users' file is not that of the whole pipeline."""
        return self._list_name in self.lists and self.lists[self._list_name].has_own_users

    @property
    def excludes_seen(self) -> bool:
        """Whether a list leaves out what its users had."""
        lists = [one_list.recommendations for one_list in self.declared_list_pipelines]
        return any(settings.seen_items is not None for settings in lists)

    @property
    def published_io(self) -> str | None:
        """The key of the project's own IO manager of published tables; None for batchrec's.

        What a trial makes goes to no other place.
        """
        return self.assets.published_io if self.trial is None else None

    @property
    def upstream(self) -> list[dg.AssetKey]:
        """The assets of others that its data come from, or that their files do."""
        blocks = [self.ratings, self.items, self.users, self.batch_users]
        blocks += [settings.users for settings in self.lists.values()]
        keys = [key for block in blocks if block is not None for key in block.upstream]
        return [*dict.fromkeys(keys)]

    @property
    def own_popularity(self) -> list[Popularity]:
        """The settings of popularity for a fingerprint; empty if they are the default."""
        # So fingerprints stay those of earlier versions, which did not have these settings.
        return [] if self.popularity == Popularity() else [self.popularity]

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
        rules = self.interactions.rules(
            self.ratings.on_bad_rows,
            event_type=has_event_type or self.excludes_seen,
        )
        return replace(rules, until=self.trial.until) if self.trial else rules

    @property
    def event_value(self) -> bool:
        """Whether interactions have an EVENT_VALUE."""
        columns = self.ratings.columns
        return columns is not None and columns.event_value is not None

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
    def making_lists(self) -> dict[str, Any]:
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
        # It decides what the metrics count, and nothing of what is in the lists.
        settings.pop("solution.target_events", None)
        # They decide what a run waits for.
        for block in ("ratings", "items", "users", "batch_users"):
            settings.pop(f"{block}.deps", None)
        project = f"{self.project.absolute()}/"
        return {
            name: value.removeprefix(project) if isinstance(value, str) else value
            for name, value in settings.items()
        }

    @property
    def recipes_by_asset(self) -> dict[str, dict[str, dict[str, str]]]:
        """For each asset the recipes that it trains, with their hyperparameters."""
        recipes_by_asset = {"solution_version": self.solution.recipes}
        if self.segments:
            recipes_by_asset["segment_solution_version"] = {self.segments.recipe: {}}
        recipe = self.similar_items_recipe
        if recipe is not None:
            recipes_by_asset["similar_items_solution_version"] = {recipe: {}}
        return recipes_by_asset

    @property
    def order_events(self) -> list[str] | None:
        """The types of events that are orders, in lists about a person's last one; None for all."""
        of_similar_items = self.similar_items.events if self.similar_items is not None else None
        return of_similar_items or self.solution.target_events or None

    @property
    def similar_items_recipe(self) -> str | None:
        """The recipe that finds similar items; None if there is none to train."""
        if self.similar_items is None:
            return None
        return self.similar_items.choose_recipe(has_item_data=ITEMS in self.schemas)

    @property
    def trial(self) -> Trial | None:
        """What it is a trial of; None for the declared pipeline."""
        return self._trial

    @property
    def project(self) -> Path:
        """The folder where relative paths start."""
        return self._project

    @cached_property
    def storage_keys(self) -> StorageKeys:
        """The pipeline's storage keys, or those of the trial."""
        trial = self.trial.name if self.trial else None
        return StorageKeys(self.address, has_own_users=self.has_own_users, trial=trial)

    @cached_property
    def key_prefix(self) -> list[str]:
        """The parts of the asset keys' prefix."""
        prefix = (self.assets.key_prefix or self.name).split("/")
        # No list can have this name.
        return [*prefix, "on-trial"] if self.trial else prefix

    def asset_key(self, asset: str) -> dg.AssetKey:
        """The key of the pipeline's asset of this name."""
        list_name = self._list_name
        belongs_to_list = is_of_list(asset) or (asset == "batch_users" and self.has_own_users)
        if list_name is None or not belongs_to_list:
            return dg.AssetKey([*self.key_prefix, asset])
        return dg.AssetKey([*self.key_prefix, list_name, asset])

    def op_name(self, asset: str) -> str:
        """The name of the asset's step in a run's config."""
        return self.asset_key(asset).to_python_identifier()

    def resource_key(self, resource: str) -> str:
        """The key of the pipeline's resource or IO manager of this name."""
        return f"batchrec_{resource}{self.resource_suffix}"

    @cached_property
    def resource_suffix(self) -> str:
        """What the keys of its resources end with; empty if it shares those of the other
        pipelines."""
        return f"_{self.name}" if self.deployment.variables else ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of what it creates in Personalize."""
        return {"batchrec:pipeline": self.name}
