"""The whole declaration as the YAML has it: its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import dagster as dg
from pydantic import Field

from batchrec_dagster.config.batch_users import BatchUsers
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.config.gate import Gate
from batchrec_dagster.config.interactions import InteractionSettings, PreparationSettings
from batchrec_dagster.config.items import ItemSettings
from batchrec_dagster.config.lists import ListSettings, validate_list_names
from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.config.project import Alerts, Budget, OnNewFiles, OpSettings, Schedule
from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster.config.report import ReportSettings
from batchrec_dagster.config.retention import Retention
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.config.users import UserSettings
from batchrec_dagster.config.validation import validate_pattern
from batchrec_dagster.sinks import Sinks


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


def _resolve_op(
    context: dg.ResolutionContext, op: Mapping[str, dg.Model | str] | str
) -> dict[str, OpSettings]:
    """The settings of each asset's step with their templates filled in, validated again."""
    if isinstance(op, str):
        raise ValueError(f"write the name of each asset below it, not {op!r}")
    resolved = {asset: _resolve(context, settings) for asset, settings in op.items()}
    return {asset: OpSettings.model_validate(settings) for asset, settings in resolved.items()}


def _block(part: type[dg.Model]) -> dg.Resolver:
    """A block of the YAML, described by the docstring of its model."""
    description = " ".join((part.__doc__ or "").split())
    return dg.Resolver(_resolve, model_field_type=part, description=description)


class Declaration(dg.Model):
    """The blocks of the YAML, each of which is valid by itself."""

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
    report: Annotated[ReportSettings, _block(ReportSettings)] = Field(
        default_factory=ReportSettings
    )
    experiment: Annotated[Experiment | None, _block(Experiment)] = None
    segments: Annotated[Segments | None, _block(Segments)] = None
    sinks: Annotated[Sinks, _block(Sinks)] = Field(default_factory=Sinks)
    budget: Annotated[Budget, _block(Budget)] = Field(default_factory=Budget)
    op: Annotated[
        dict[str, OpSettings],
        dg.Resolver(
            _resolve_op,
            model_field_type=dict[str, OpSettings],
            description="How Dagster runs the step of an asset, by its name, such as"
            ' solution_version or newsletter/recommendations, or of all by "*". What an asset sets'
            " itself counts before that.",
        ),
    ] = Field(default_factory=dict)
    schedule: Annotated[Schedule, _block(Schedule)] = Field(default_factory=Schedule)
    alerts: Annotated[Alerts, _block(Alerts)] = Field(default_factory=Alerts)
    on_new_files: Annotated[OnNewFiles, _block(OnNewFiles)] = Field(default_factory=OnNewFiles)

    _list_names_are_possible = validate_list_names()

    _name_is_possible = validate_pattern(
        "name",
        pattern=r"[A-Za-z][A-Za-z0-9_]{0,31}",
        or_else="write a letter, then letters, digits and _, at most 32 in all",
    )
