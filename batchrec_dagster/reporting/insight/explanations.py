"""Explanations of the items on a person's list: a reason in the list, or a past item."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import polars as pl

from batchrec_dagster.config.list_columns import REASON
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.steps.data.numbered_ids import NumberedIds
from batchrec_dagster.steps.data.popular_items import POPULAR
from batchrec_dagster.steps.lists.item_pairs import count_pairs, number_histories
from batchrec_dagster.steps.lists.reasons import BECAUSE, SpeakingItems, select_strongest
from batchrec_dagster.steps.outcomes.arms import CONTROL

# The pairs of items that explain lists are counted over about this many people.
MOST_HISTORIES = 20_000
# The maximum number of a person's newest interactions that may explain their list.
MOST_OWN = 100


@dataclass(frozen=True)
class PastInteractions:
    """The interactions that explain lists."""

    interactions: pl.LazyFrame
    """The interactions, with the columns of Personalize's dataset."""
    users: int
    """The approximate number of users in the interactions."""
    event_strengths: Mapping[str, float] = field(default_factory=dict)
    """The weight of each type of event for a person's taste, as `weigh_events` returns it."""


def name_reason(columns: Collection[str]) -> pl.Expr:
    """Return an expression for why a row is on a list, in a word.

    The word is empty if the model or the history put the row there.

    columns: the columns of the lists.
    """
    reason = pl.lit("")
    if REASON in columns:
        given = pl.col(REASON).fill_null("")
        reason = pl.when(given == BECAUSE).then(pl.lit("")).otherwise(given)
    if "arm" in columns:
        # An experiment's control gets popular items.
        is_control = (pl.col("arm") == CONTROL) & (reason == "")
        reason = pl.when(is_control).then(pl.lit(POPULAR)).otherwise(reason)
    return reason


def explain_lists(
    lists: pl.DataFrame, had: pl.DataFrame, users: pl.Series, histories: PastInteractions
) -> tuple[pl.DataFrame, int]:
    """Return the lists with the columns because and both, and the number of counted people.

    `because` is the item of the person's history that has the most people in common with the listed
    item. `both` is the number of counted people who had both items. The two columns are null if
    there is no such item, or if the list itself says why the item is there.

    lists: user_id, item_id, and reason as `name_reason` gives it.
    had: all interactions of the people with these lists.
    users: the ids of these people, sorted.
    histories: the interactions of all people.
    """
    newest = had.sort(TIMESTAMP, descending=True).group_by(USER_ID).head(MOST_OWN)
    items = pl.concat([lists.get_column("item_id"), newest.get_column(ITEM_ID)]).unique().sort()
    own_items = select_strongest(newest.lazy(), users, items, histories.event_strengths)
    rows = lists.select(
        user=NumberedIds(users).find(lists.get_column("user_id")),
        item=NumberedIds(items).find(lists.get_column("item_id")),
    )
    pairs_had = histories.interactions.select(user_id=USER_ID, item=ITEM_ID)
    pairs_had = pairs_had.filter(is_counted(histories.users))
    with_items, counted = pl.collect_all(
        [
            pairs_had.filter(pl.col("item").is_in(items.implode())),
            pairs_had.select(pl.col("user_id").n_unique()),
        ],
        engine="streaming",
    )
    people = int(counted.item())
    users_with_items = with_items.get_column("user_id").unique().sort()
    numbered = number_histories(with_items.lazy(), users_with_items, items)
    pairs = count_pairs(numbered, people, _list_pairs(rows, own_items))
    speaking = SpeakingItems(own_items, len(users), pairs).find(rows)
    because = items.gather(speaking.get_column("own_item").cast(pl.UInt32))
    is_explained = pl.col("reason") == ""
    explained = lists.with_columns(
        because=pl.when(is_explained).then(pl.lit(because)),
        both=pl.when(is_explained).then(pl.lit(speaking.get_column("both"))),
    )
    return explained, people


def _list_pairs(listed: pl.DataFrame, own_items: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs of a listed item and a past item of the same person.

    The lower number of a pair comes first.

    listed, own_items: the columns user and item.
    """
    pairs = listed.select("user", "item").join(own_items.select("user", other="item"), on="user")
    lower, higher = pl.min_horizontal("item", "other"), pl.max_horizontal("item", "other")
    return pairs.filter(pl.col("item") != pl.col("other")).select(item=lower, other=higher).unique()


def is_counted(users: int) -> pl.Expr:
    """Return an expression for whether the history of a user_id explains lists.

    If there are many users, only the histories of an even sample of users explain lists. Every run
    takes the same sample.

    users: the approximate number of users.
    """
    share = max(1, -(-users // MOST_HISTORIES))
    return pl.col("user_id").hash(seed=0) % share == 0
