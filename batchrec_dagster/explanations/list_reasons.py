"""Why each item is on each list, for the columns reason and reason_item."""

from __future__ import annotations

import numpy as np
import polars as pl

from batchrec_dagster.explanations.item_overlaps import (
    build_user_item_matrix,
    choose_counted_users,
    find_best_explanations,
)
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.rules.pairs import IdNumbers, Numbers, Pairs, find_positions

# A reason of a row, besides those that rules give: an item of the history speaks for it; most
# people like it, of whom the engine knows nothing else; nobody has had it yet.
BECAUSE, POPULAR, NEW = "because", "popular", "new"
# The items that share users are counted once for this many results of lists.
RESULTS_AT_ONCE = 4_000_000
# So the counting is bounded more than that of the report, which counts once.
MOST_PAIRS = 100_000_000


class ListReasons:
    """Says of the rows of lists why the item is there.

    It needs the extra `report`.

    interactions: the columns of Personalize's dataset.
    users: the distinct ids of the users whom lists are made for.
    """

    def __init__(self, interactions: pl.LazyFrame, users: pl.Series) -> None:
        items = interactions.select(pl.col(ITEM_ID).unique().sort()).collect(engine="streaming")
        self._items = items.to_series()
        self._item_numbers, self._user_numbers = IdNumbers(self._items), IdNumbers(users)
        self._pairs = Pairs.read(
            interactions.select(
                user=find_positions(USER_ID, users), item=find_positions(ITEM_ID, self._items)
            )
        )
        counts = interactions.group_by(user_id=USER_ID).agg(interactions=pl.len())
        counted_users = choose_counted_users(
            counts.collect(engine="streaming").sort("user_id"), MOST_PAIRS
        )
        pairs = interactions.select(user_id=USER_ID, item=ITEM_ID).join(
            counted_users.to_frame().lazy(), on="user_id", how="semi"
        )
        self._matrix = build_user_item_matrix(pairs, self._items)

    def explain(self, rows: pl.DataFrame, reasons: pl.Series) -> pl.DataFrame:
        """The columns reason and reason_item of these rows.

        The reason is BECAUSE, and reason_item that item of the user's history, if the audience of
        one overlaps with that of the row's item; POPULAR for a user without a history; NEW for an
        item without interactions. It is null where nothing is known.

        rows: the columns user_id and item_id; all rows of a user together.
        reasons: what is known of each row already, which stays; null for the others.
        """
        runs = rows.get_column("user_id").rle_id().to_numpy().astype(np.int64)
        first_rows = np.flatnonzero(np.diff(runs, prepend=-1))
        users = self._user_numbers.find(rows.get_column("user_id").gather(first_rows))
        histories = self._pairs.list_items(users)
        has_history = np.array([len(history) > 0 for history in histories], dtype=bool)[runs]
        items = self._item_numbers.find(rows.get_column("item_id"))
        is_open = reasons.is_null().to_numpy()
        is_new = is_open & (items == len(self._items))
        is_popular = is_open & ~is_new & ~has_history
        explained_rows = np.flatnonzero(is_open & ~is_new & ~is_popular)
        because = np.full(rows.height, -1)
        because[explained_rows] = self._find_items(
            histories, items[explained_rows], runs[explained_rows]
        )
        kinds = np.select([because >= 0, is_popular, is_new], [1, 2, 3], 0)
        names = pl.Series([None, BECAUSE, POPULAR, NEW], dtype=pl.String)
        places = pl.Series(because, dtype=pl.Int64)
        return pl.DataFrame(
            {
                "reason": reasons.zip_with(reasons.is_not_null(), names.gather(kinds)),
                "reason_item": self._items.gather(places.set(places < 0, None)),
            }
        )

    def _find_items(self, histories: list[Numbers], items: Numbers, lists: Numbers) -> Numbers:
        """For each row the number of the item of the history that explains it best, or -1.

        items, lists: the item and the place in `histories` of each row, in the order of the lists.
        """
        ends = np.searchsorted(lists, np.arange(len(histories)), side="right")
        listed_items = np.split(items, ends[:-1])
        explanations, _ = find_best_explanations(self._matrix, histories, listed_items)
        reason_items = [because for because, _ in explanations]
        return np.concatenate([*reason_items, np.zeros(0, dtype=np.int64)])
