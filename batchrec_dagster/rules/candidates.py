"""The results of a piece of users that rules choose from, as columns of lists."""

from __future__ import annotations

import numpy as np
import polars as pl

from batchrec_dagster.rules.catalogue import ItemCatalogue
from batchrec_dagster.rules.pairs import Masks, Matrix, Numbers


class Candidates:
    """The model's results for a piece of users.

    lines: the columns user_id, and items and scores, which are lists, best first, in one row a
        list. There may be fewer scores than items, and each may be null.
    catalogue: the items, which it numbers.
    """

    def __init__(self, lines: pl.DataFrame, catalogue: ItemCatalogue) -> None:
        self.users = lines.get_column("user_id")
        lengths = _measure_lengths(lines.get_column("items"))
        self._starts = np.cumsum(lengths) - lengths
        self._ids = _flatten(lines.get_column("items"))
        self._scores = _flatten(lines.get_column("scores"))
        self._score_lengths = _measure_lengths(lines.get_column("scores"))
        self._score_starts = np.cumsum(self._score_lengths) - self._score_lengths
        is_result = np.arange(lengths.max(initial=0)) < lengths[:, None]
        items = np.full(is_result.shape, catalogue.other, dtype=np.int32)
        items[is_result] = catalogue.find_numbers(self._ids)
        # The rules look at one place of all lists at a time, so these are next to each other.
        self.items: Matrix = np.ascontiguousarray(items.T)
        """The number of the item at each place (row) of each list (column)."""
        self.is_result: Masks = np.ascontiguousarray(is_result.T)
        """Whether the list has a result at the place. `items` has other items' number elsewhere."""

    def __len__(self) -> int:
        """How many results all lists have."""
        return len(self._ids)

    def gather_ids(self, lists: Numbers, places: Numbers, others: pl.Series) -> pl.Series:
        """The id of the item at each of these places.

        lists: the list of each.
        places: where in the list; for a negative number, where in `others`, counted from their end.
        others: further ids.
        """
        rows = np.where(places < 0, len(self._ids) + len(others) + places, 0)
        is_candidate = places >= 0
        rows[is_candidate] = self._starts[lists[is_candidate]] + places[is_candidate]
        return pl.concat([self._ids, others]).gather(rows)

    def gather_scores(self, lists: Numbers, places: Numbers) -> pl.Series:
        """The score at each of these places; null where there is none, or the place is negative.

        lists: the list of each.
        """
        has_score = (places >= 0) & (places < self._score_lengths[lists])
        rows = np.where(has_score, self._score_starts[lists] + places, len(self._scores))
        return self._scores.extend_constant(None, 1).gather(rows)


def _measure_lengths(lists: pl.Series) -> Numbers:
    """How long each list is; 0 for null."""
    return lists.list.len().fill_null(0).to_numpy().astype(np.int64)


def _flatten(lists: pl.Series) -> pl.Series:
    """The values of all lists, one after the other."""
    return lists.explode(empty_as_null=False, keep_nulls=False)
