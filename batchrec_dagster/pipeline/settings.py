"""The typed parts of a pipeline's declaration.

Every value is checked when the YAML is loaded, so that what is impossible fails with the file and
line before anything runs. Strings may hold Dagster's templates, such as `{{ env.RATINGS }}`.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import BaseModel, Field, field_validator, model_validator

from batchrec_dagster.formats.batch_inference import MAX_RESULTS
from batchrec_dagster.formats.recipes import USER_RECIPES
from batchrec_dagster.pipeline.places import Places
from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources import SourceError, check_source, known_layout

Column = str | int


class Columns(dg.Model):
    """Which column holds what: all by name in the header, or all by position (the first is 1)."""

    user: Column = Field(description="The column with the user's id.", examples=["userId", 1])
    item: Column = Field(description="The column with the item's id.", examples=["movieId", 2])
    rating: Column | None = Field(
        default=None,
        description="The column with the rating, a number. Leave it out when there is none.",
        examples=["rating", 3],
    )
    timestamp: Column = Field(
        description="The column with the time of the interaction, in whole epoch seconds or"
        " milliseconds.",
        examples=["timestamp", 4],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        columns = [c for c in (self.user, self.item, self.rating, self.timestamp) if c is not None]
        if len({type(column) for column in columns}) > 1:
            raise ValueError(
                "give either names for all columns (the file has a header) or positions for all"
                " of them (it has none)"
            )
        if len(set(columns)) < len(columns):
            raise ValueError("user, item, rating and timestamp must be different columns")
        if any(isinstance(column, int) and column < 1 for column in columns):
            raise ValueError("positions count from 1")
        return self


class Ratings(dg.Model):
    """The file of ratings, and how to read it."""

    source: str = Field(
        description="Where the ratings are: sample://hetrec (generated), movielens://NAME"
        " (downloaded from GroupLens), a path, s3://bucket/key or https://…; a file inside a zip"
        " is written ARCHIVE.zip!/path/in/it.csv. A relative path starts at the project's folder.",
        examples=["sample://hetrec", "data/ratings.csv", "s3://shop/ratings.zip!/ratings.csv"],
    )
    delimiter: str | None = Field(
        default=None,
        description="What separates the fields: one character, or `::`. Default: a comma, or what"
        " a known source has.",
        examples=[",", "\t", "::"],
    )
    columns: Columns | None = Field(
        default=None,
        description="Which column holds what. Needed for files of your own; known sources have it.",
    )
    timestamp_unit: Literal["auto", "s", "ms"] = Field(
        default="auto",
        description="Whether the timestamps are seconds or milliseconds; auto decides by their"
        " size and says what it decided.",
    )
    on_bad_rows: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do about rows that cannot be read: fail names the first of them,"
        " skip leaves them out and counts them.",
    )

    @field_validator("source")
    @classmethod
    def _source_is_known(cls, source: str) -> str:
        if "{{" not in source:
            try:
                check_source(source)
            except SourceError as error:
                raise ValueError(str(error)) from None
        return source

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_readable(cls, delimiter: str | None) -> str | None:
        if delimiter not in (None, "::") and (
            len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'
        ):
            raise ValueError('write one ASCII character, such as "," or "\\t", or "::"')
        return delimiter

    @model_validator(mode="after")
    def _columns_are_told(self) -> Self:
        if self.columns is None and "{{" not in self.source and known_layout(self.source) is None:
            raise ValueError(
                "columns is missing: say which column is the user, the item, the rating and the"
                " timestamp, for example columns: {user: userId, item: movieId, rating: rating,"
                " timestamp: timestamp}"
            )
        return self

    @property
    def layout(self) -> Layout:
        """How to read the file: what is declared here, else what is known of the source."""
        known = known_layout(self.source)
        if self.columns is None:
            if known is None:
                raise ValueError(f"columns is missing for {self.source}")
            return known.replaced(self.delimiter, self.timestamp_unit)
        delimiter = self.delimiter or (known.delimiter if known else ",")
        return Layout(
            delimiter=delimiter,
            user=self.columns.user,
            item=self.columns.item,
            rating=self.columns.rating,
            timestamp=self.columns.timestamp,
            timestamp_unit=self.timestamp_unit,
        )


class Interactions(dg.Model):
    """Which ratings count as interactions."""

    min_rating: float | None = Field(
        default=None,
        description="Ratings below this are left out. Without it all are kept.",
        examples=[3.5],
    )

    @field_validator("min_rating")
    @classmethod
    def _min_rating_is_finite(cls, min_rating: float | None) -> float | None:
        if min_rating is not None and not math.isfinite(min_rating):
            raise ValueError("write a number such as 3.5")
        return min_rating


class Solution(dg.Model):
    """How Personalize trains."""

    recipe: str = Field(
        default="aws-user-personalization-v2",
        description="The Personalize recipe: " + ", ".join(USER_RECIPES) + ".",
    )
    hyperparameters: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="The recipe's own settings, by Personalize's names (algorithmHyperParameters).",
        examples=[{"hidden_dimension": 64}],
    )
    compare_with_popularity: bool = Field(
        default=True,
        description="Also train aws-popularity-count, so that the metrics stand beside what a list"
        " of the most popular items would reach. On AWS it costs a short training more.",
    )

    @field_validator("recipe")
    @classmethod
    def _recipe_is_known(cls, recipe: str) -> str:
        if recipe not in USER_RECIPES:
            raise ValueError(f"unknown recipe; allowed are {', '.join(USER_RECIPES)}")
        return recipe

    @property
    def algorithm_hyperparameters(self) -> dict[str, str]:
        """The hyperparameters as Personalize takes them: strings, booleans in lower case."""
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in sorted(self.hyperparameters.items())
        }


class Recommendations(dg.Model):
    """What each user gets."""

    num_results: int = Field(
        default=25,
        description=f"Items in each user's list, 1 to {MAX_RESULTS}.",
        json_schema_extra={"minimum": 1, "maximum": MAX_RESULTS},
    )
    exclude_seen: bool = Field(
        default=True, description="Leave out the items that the user already interacted with."
    )

    @field_validator("num_results")
    @classmethod
    def _num_results_is_possible(cls, num_results: int) -> int:
        if not 1 <= num_results <= MAX_RESULTS:
            raise ValueError(f"write a whole number from 1 to {MAX_RESULTS}")
        return num_results


class Schedule(dg.Model):
    """When the pipeline runs by itself."""

    cron: str = Field(
        default="0 3 * * *",
        description="Minute, hour, day of the month, month, day of the week.",
        examples=["0 3 * * *", "@daily"],
    )
    timezone: str = Field(
        default="UTC", description="An IANA time zone.", examples=["Europe/Berlin"]
    )
    enabled: bool = Field(
        default=False,
        description="Whether the schedule is on from the start. It can be switched in the UI too.",
    )

    @field_validator("cron")
    @classmethod
    def _cron_is_valid(cls, cron: str) -> str:
        try:
            dg.ScheduleDefinition(name="check", cron_schedule=cron, job_name="check")
        except dg.DagsterInvalidDefinitionError:
            raise ValueError(
                'not a cron schedule; write five fields such as "0 3 * * *" (every day at 3:00)'
            ) from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError):
            raise ValueError('unknown time zone; write one such as "Europe/Berlin"') from None
        return timezone


def _resolve(context: dg.ResolutionContext, part: dg.Model | str) -> dg.Model:
    """Fill in the templates of a part, and check it again with what they stand for."""
    if isinstance(part, str):
        raise ValueError(f"write its settings on lines of their own below it, not {part!r}")
    return type(part).model_validate(context.resolve_value(part.model_dump(exclude_unset=True)))


def _part(part: type[dg.Model], description: str) -> dg.Resolver:
    return dg.Resolver(_resolve, model_field_type=part, description=description)


class Pipeline(dg.Model):
    """A ratings file becomes recommendations for every user."""

    name: str = Field(
        description="Prefix of the asset keys, of the storage paths and of the names in"
        " Personalize: letters, digits and _, at most 32.",
        examples=["movielens"],
    )
    description: Annotated[
        str | None, dg.Resolver.default(description="What the pipeline is for.")
    ] = None
    owners: Annotated[
        list[str],
        dg.Resolver.default(
            description="Who looks after the assets: e-mail addresses or team:NAME."
        ),
    ] = Field(default=["team:recommendations"])
    ratings: Annotated[Ratings, _part(Ratings, "The file of ratings, and how to read it.")]
    interactions: Annotated[
        Interactions, _part(Interactions, "Which ratings count as interactions.")
    ] = Field(default_factory=Interactions)
    solution: Annotated[Solution, _part(Solution, "How Personalize trains.")] = Field(
        default_factory=Solution
    )
    recommendations: Annotated[Recommendations, _part(Recommendations, "What each user gets.")] = (
        Field(default_factory=Recommendations)
    )
    schedule: Annotated[Schedule, _part(Schedule, "When the pipeline runs by itself.")] = Field(
        default_factory=Schedule
    )

    @field_validator("name")
    @classmethod
    def _name_is_possible(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name):
            raise ValueError("write a letter, then letters, digits and _, at most 32 in all")
        return name

    @field_validator("owners")
    @classmethod
    def _owners_can_be_reached(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not re.fullmatch(r"team:[\w.-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
                raise ValueError(f"{owner!r} is no owner: write an e-mail address or team:NAME")
        return owners

    @model_validator(mode="after")
    def _min_rating_has_ratings(self) -> Self:
        if (
            self.interactions.min_rating is not None
            and self.ratings.columns is not None
            and self.ratings.columns.rating is None
        ):
            raise ValueError(
                "interactions.min_rating needs ratings.columns.rating: say which column it is, or"
                " leave min_rating out"
            )
        return self

    @property
    def places(self) -> Places:
        """Where its data lie."""
        return Places(self.name)

    @property
    def tags(self) -> dict[str, str]:
        """What marks its resources in Personalize."""
        return {"batchrec:pipeline": self.name}


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does."""
    text = "\n".join(
        part.model_dump_json() if isinstance(part, BaseModel) else repr(part) for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
