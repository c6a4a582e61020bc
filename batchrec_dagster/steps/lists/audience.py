"""The audience of a table: the users, items or segments that get a list, and the kind of list.

A list comes from the model or, for some users, from popular items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.config.list_table import ItemLists, SegmentLists, UserLists
from batchrec_dagster.config.lists import PopularBy
from batchrec_dagster.editions.edition import Finding, Numbers, watch_unless
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.formats import USER_FIELD
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.batch_users import find_newcomers
from batchrec_dagster.steps.data.items import read_item_ids, read_item_list
from batchrec_dagster.steps.data.popular_items import POPULAR, read_user_groups
from batchrec_dagster.steps.outcomes.arms import MODEL, assign_arms

# An item's list says little if fewer people than this had the item: the recipe aws-sims leaves out
# pairs of items that fewer people had.
ENOUGH_PEOPLE = 3
# The number of missing ids that a finding names.
MAX_IDS_NAMED = 3
NO_POPULAR_LISTS = pl.DataFrame(schema={"subject": pl.String, "reason": pl.String})


@dataclass(frozen=True)
class Audience:
    """The users, items or segments of a table, with the kind of list that each one gets."""

    requested: pl.Series
    """The distinct ids that should get a list, in order."""
    version: str
    """A version that changes when the requested ids change."""
    of_model: pl.Series
    """The ids that get a list of the model. Before `divide`, these are all requested ids."""
    popular: pl.DataFrame = field(default_factory=lambda: NO_POPULAR_LISTS)
    """The users who get popular items instead of a list of the model.

    The columns are subject and reason. The reason names the group of users with whom the items are
    popular.
    """
    newcomers: int | None = None
    """The number of users without interactions; None if it was not counted."""
    findings: tuple[Finding, ...] = ()
    """The findings about the requested ids, before there are lists."""

    @property
    def served(self) -> pl.Series:
        """The ids that get a list of the model or of popular items."""
        return pl.concat([self.of_model.alias("subject"), self.popular.get_column("subject")])

    @property
    def is_undivided(self) -> bool:
        """Whether all requested ids get a list of the model."""
        return len(self.of_model) == len(self.requested)


def read_audience(step: StepContext, published: ListTable, interactions: pl.LazyFrame) -> Audience:
    """Return the users, items or segments that should get a list, not yet divided.

    These are the users in the file of the list's users, the items of the declared source or of the
    interactions, or the declared segments. Raises UserError.
    """
    return _READERS[type(published)](step, published, interactions)


def _read_users(step: StepContext, published: UserLists, interactions: pl.LazyFrame) -> Audience:
    with step.storage.local_file(step.files.uri(published.users_key)) as path:
        users = pl.read_ndjson(path).get_column(USER_FIELD).alias("subject")
    return Audience(users, step.files.record_version(published.users_record), users)


def _read_segments(
    step: StepContext, published: SegmentLists, interactions: pl.LazyFrame
) -> Audience:
    queries = published.segments.queries
    ids = pl.Series("subject", queries)
    return Audience(ids, fingerprint(queries), ids)


def _read_items(step: StepContext, published: ItemLists, interactions: pl.LazyFrame) -> Audience:
    """Read the items of the declared source, or all items of the interactions if there is none.

    Raises UserError.
    """
    people = (
        interactions.group_by(item=ITEM_ID)
        .agg(people=pl.col(USER_ID).n_unique())
        .collect(engine="streaming")
    )
    items_with_people = people.get_column("item")
    ids = items_with_people.sort()
    declared = published.similar_items.items
    if declared is not None:
        ids = read_item_list(step, declared, "similar_items.items")
        if not len(ids):
            raise UserError("similar_items.items has no items: correct its rows, or leave it out")
    unknown = ids.filter(~ids.is_in(items_with_people.implode()))
    if len(unknown) and step.pipeline.items is not None:
        unknown = unknown.filter(~unknown.is_in(read_item_ids(step).implode()))
    enough = people.filter(pl.col("people") >= ENOUGH_PEOPLE).get_column("item")
    few = len(ids) - int(ids.is_in(enough.implode()).sum())
    finding = check_requested_items_known(len(ids), few, unknown)
    ids = ids.alias("subject")
    return Audience(ids, fingerprint(ids.to_list()), ids, findings=(finding,))


_READERS: dict[type[ListTable], Callable[[StepContext, Any, pl.LazyFrame], Audience]] = {
    UserLists: _read_users,
    ItemLists: _read_items,
    SegmentLists: _read_segments,
}


def divide(step: StepContext, published: ListTable, audience: Audience) -> Audience:
    """Divide the requested users between lists of the model, lists of popular items, and no list.

    Newcomers, the users without interactions, get the list that the setting `newcomers` asks for.
    The control arm of an experiment gets popular items or no list. If the control arm gets no list,
    its newcomers get no list either. All other users get a list of the model.

    Items and segments always get a list of the model. Raises UserError, for example if the model
    has no user to make lists for.
    """
    if not published.divides_users:
        return audience
    experiment, policy = published.experiment, published.settings.newcomers
    users = audience.requested
    has_model = pl.lit(value=True)
    table = users.to_frame()
    reason = pl.lit(None, dtype=pl.String)
    if experiment is not None:
        table = table.with_columns(assign_arms(users, experiment))
        has_model = pl.col("arm") == MODEL
        if experiment.control == "popular":
            reason = pl.when(~has_model).then(pl.lit(POPULAR))
    newcomers = None
    if policy is not None:
        is_new = find_newcomers(step, users)
        newcomers = int(is_new.sum())
        table = table.with_columns(is_new=is_new)
        own_reason = pl.lit(None if policy == "leave_out" else POPULAR, dtype=pl.String)
        if isinstance(policy, PopularBy):
            groups = read_user_groups(step, published).unique(USER_ID, keep="first")
            groups = groups.select(subject=USER_ID, group="reason")
            table = table.join(groups, on="subject", how="left", maintain_order="left")
            own_reason = pl.col("group").fill_null(POPULAR)
        is_served = has_model
        if experiment is None or experiment.control != "none":
            is_served = pl.lit(value=True)
        reason = pl.when(pl.col("is_new") & is_served).then(own_reason).otherwise(reason)
        has_model &= ~pl.col("is_new")
    table = table.with_columns(reason=reason, has_model=has_model)
    popular = table.select("subject", "reason").drop_nulls("reason")
    of_model = table.filter("has_model").get_column("subject")
    if not len(of_model):
        raise UserError(
            f"the model has no user to make lists for: all {len(users):,} are in the control of the"
            " experiment or have no interactions. Set a lower experiment.control_share, or omit"
            f" {published.setting}.newcomers"
        )
    return replace(audience, of_model=of_model, popular=popular, newcomers=newcomers)


def check_requested_items_known(items: int, few: int, unknown: pl.Series) -> Finding:
    """Check that all requested items are known; a failure only warns.

    items: the number of requested items.
    few: the number of requested items that too few people had for a good list. The text gives
        this number, but the check does not fail because of it.
    unknown: the ids that are neither in the interactions nor in the items file.
    """
    text = (
        f"{few:,} of {items:,} items were had by fewer than {ENOUGH_PEOPLE} people, so their lists"
        " say little"
    )
    if len(unknown):
        text += (
            f"; {len(unknown):,} are neither in the interactions nor in the items file:"
            f" {list_ids(unknown.head(MAX_IDS_NAMED), len(unknown))}. Check similar_items.items"
        )
    numbers: Numbers = {"items": items, "few": few, "unknown": len(unknown)}
    headline = f"{len(unknown):,} requested items are unknown" if len(unknown) else ""
    return Finding("requested_items_known", watch_unless(not len(unknown)), text, headline, numbers)


def list_ids(first: Iterable[object], count: int) -> str:
    """Return a text with the first few ids, and with the number of further ids if there are any.

    first: the ids to name, at most MAX_IDS_NAMED.
    count: the number of all ids.
    """
    listed = ", ".join(map(repr, first))
    return listed if count <= MAX_IDS_NAMED else f"{listed} and {count - MAX_IDS_NAMED:,} more"
