"""What rules know of users and items when they are applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import polars as pl

from batchrec_dagster.personalize.conditions import SECONDS_A_DAY, add_age_column
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.catalogue import ItemCatalogue, build_catalogue
from batchrec_dagster.rules.pairs import Pairs, find_positions


@dataclass(frozen=True)
class InteractionSelection:
    """Which interactions count for a rule."""

    events: Sequence[str] | None = None
    """Only those of these types, in any case; None for all."""
    days: int | None = None
    """Only those of the last days before `RuleContext.now`; None for all."""


@dataclass(frozen=True)
class RuleContext:
    """What rules know of users and items when they are applied."""

    num_results: int
    """How many items a list has."""
    user_ids: pl.Series
    """The distinct ids of the users whom lists are made for. Their numbers count from 0."""
    interactions: pl.LazyFrame
    """The columns of Personalize's dataset. Those of other users may be among them."""
    now: int
    """The time of the newest interaction, in epoch seconds. Periods of days end here, so that the
    same data give the same lists on any day."""
    today: date
    """The day of the run, which ends what is declared until a day."""
    items: pl.DataFrame | None = None
    """ITEM_ID and the columns of the Items dataset; None if no items are declared."""
    users: pl.DataFrame | None = None
    """USER_ID and the columns of the Users dataset; None if no users are declared."""
    popular: pl.Series | None = None
    """The ids of popular items, the most popular first, which fill lists that are too short."""
    blocked: pl.Series | None = None
    """The ids that `block` names; None without that rule."""
    pinned: Sequence[str] = ()
    """The ids that `pin` names."""

    @cached_property
    def catalogue(self) -> ItemCatalogue:
        """The items of the interactions, the Items dataset and the rules."""
        counts = self.interactions.group_by(ITEM_ID).agg(interactions=pl.len())
        named = [pl.Series(self.pinned, dtype=pl.String)]
        named += [ids for ids in (self.popular, self.blocked) if ids is not None]
        items = None if self.items is None else add_age_column(self.items, self.now)
        return build_catalogue(counts.collect(engine="streaming").sort(ITEM_ID), items, named)

    @cached_property
    def event_types(self) -> set[str] | None:
        """The event types of the interactions, in lower case; None if they have no types."""
        if EVENT_TYPE not in self.interactions.collect_schema():
            return None
        types = self.interactions.select(pl.col(EVENT_TYPE).str.to_lowercase().unique())
        return set(types.collect(engine="streaming").to_series().drop_nulls())

    def read_pairs(self, selections: Sequence[InteractionSelection]) -> Iterator[Pairs]:
        """The pairs of a user and an item, by number, of each selection, in turn.

        They come from one reading of the interactions, which takes longer than all else that is
        known before lists are made.
        """
        conditions = {
            f"selected {place}": self._build_condition(selection)
            for place, selection in enumerate(selections)
        }
        pairs = self.interactions.select(
            user=find_positions(USER_ID, self.user_ids),
            item=find_positions(ITEM_ID, self.catalogue.ids),
            **conditions,
        )
        return Pairs.read_selections(pairs, [*conditions])

    def _build_condition(self, selection: InteractionSelection) -> pl.Expr:
        condition = pl.lit(value=True)
        if selection.events is not None:
            if self.event_types is None:
                return pl.lit(value=False)
            names = [event.lower() for event in selection.events]
            condition &= pl.col(EVENT_TYPE).str.to_lowercase().is_in(names)
        if selection.days is not None:
            condition &= pl.col(TIMESTAMP) > self.now - selection.days * SECONDS_A_DAY
        return condition.fill_null(value=False)
