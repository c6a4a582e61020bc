"""The model behind aws-item-affinity and aws-item-attribute-affinity: users who like some items.

Users are ranked by how often they are likely to meet one of the items from now on: the items'
share of a user's softmax, times how active the user is. People who had an item may come back for
it or not, a bakery's do and a cinema's do not: how much its share counts then is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import serving
from batchrec_dagster.local_personalize.learning.blend_model import PersonalizationModel
from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.model_selection import Trial
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.store import Arrays, pack_ids, save_arrays
from batchrec_dagster.local_personalize.learning.threads import each, ordered_map

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

ROOM = 1024  # at least, for those that have come since the last weeding out
WEEDED = 4 << 20  # values weeded at once


class Best:
    """Keeps the `size` of largest value for each question; the one that came first wins a tie.

    Memory: twice the questions x (size + what is added at once). A part of a stream costs no more
    than a look, until as many have come as are kept and the worse half is weeded out.
    """

    def __init__(self, questions: int, size: int) -> None:
        self._size = size
        self._width = 2 * max(size, ROOM)
        self._filled = 0
        self._values = np.empty((questions, 0), dtype=np.float32)
        self._who = np.empty((questions, 0), dtype=np.int32)

    def add(self, who: Int32, values: Float32) -> None:
        """Take in `who` (n,), later than all before, with their (questions, n) finite values."""
        last = self._filled + len(who)
        if last > max(self._width, self._size + len(who)):
            self._weed()
            last = self._filled + len(who)
        if last > self._values.shape[1]:
            self._grow(last)
        self._values[:, self._filled : last] = values
        self._who[:, self._filled : last] = who
        self._filled = last

    def ranked(self) -> list[Int32]:
        """For each question those kept, the best first."""
        self._weed()
        return [row.copy() for row in self._who[:, : self._filled]]

    def _grow(self, needed: int) -> None:
        width = max(needed, min(self._width, 2 * self._values.shape[1]))
        for name in ("_values", "_who"):
            old = getattr(self, name)
            new = np.empty((len(old), width), dtype=old.dtype)
            new[:, : self._filled] = old[:, : self._filled]
            setattr(self, name, new)

    def _weed(self) -> None:
        kept = min(self._size, self._filled)
        if kept:
            step = max(1, WEEDED // self._filled)
            parts = (slice(at, at + step) for at in range(0, len(self._values), step))
            each(lambda part: self._weed_rows(part, kept), parts)
        self._filled = kept

    def _weed_rows(self, part: slice, kept: int) -> None:
        values, who = self._values[part], self._who[part]
        columns = top(values[:, : self._filled], kept)
        values[:, :kept] = np.take_along_axis(values, columns, axis=1)
        who[:, :kept] = np.take_along_axis(who, columns, axis=1)


@dataclass(frozen=True)
class SegmentationModel:
    """Ranks users by their affinity to items."""

    kind: ClassVar[str] = "segmentation"

    scorer: PersonalizationModel
    again: float = 1.0  # what the share of an item counts for those who have met it

    @property
    def item_ids(self) -> Ids:
        """See Known."""
        return self.scorer.item_ids

    def segment(
        self,
        queries: Sequence[Int32],
        interactions: Interactions,
        size: int,
        *,
        users: npt.NDArray[np.bool_] | None = None,
        checkpoint: Callable[[int], None] = lambda _: None,
    ) -> list[Int32]:
        """See SegmentModel; between users alike the first in order of id comes first."""
        count = len(interactions.user_ids)
        asked = np.flatnonzero(np.ones(count, bool) if users is None else users).astype(np.int32)
        wanted = _indicator(queries, len(self.item_ids))
        histories = Histories(interactions, self.item_ids)
        best = Best(len(queries), min(size, len(asked)))
        step = max(1, min(1024, serving.CHUNK_SCORES // max(1, len(self.item_ids), len(queries))))

        def chunk(start: int) -> tuple[Int32, Float32]:
            part = asked[start : start + step]
            history = histories.of(part)
            return part, np.asarray(wanted @ self._affinities(history).T)

        for part, shares in ordered_map(chunk, range(0, len(asked), step)):
            best.add(part, shares)
            checkpoint(len(part))
        return best.ranked()

    def _affinities(self, history: History) -> Float32:
        """(users, n_items): about how often, up to one factor for all."""
        affinities = shares(self.scorer, history)
        affinities[history.weights(0.0).nonzero()] *= np.float32(self.again)
        # Less than in proportion: the busiest were busy in the past.
        affinities *= np.sqrt(np.maximum(history.lengths, 1), dtype=np.float32)[:, None]
        return affinities

    def save(self, folder: Path) -> None:
        """See Known."""
        arrays, facts = self.scorer.contents()
        arrays = {**pack_ids(self.item_ids), **arrays}
        save_arrays(folder, self.kind, arrays, {**facts, "again": self.again})

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> SegmentationModel:
        """The model whose arrays were saved."""
        return cls(PersonalizationModel.load(item_ids, arrays, facts), float(facts["again"]))


def _indicator(queries: Sequence[Int32], n_items: int) -> csr_matrix:
    """(queries, n_items) float32: 1 for the items of each query, however often they stand in it."""
    distinct = [np.unique(items) for items in queries]
    starts = np.cumsum([0, *(len(items) for items in distinct)])
    items = np.concatenate([*distinct, np.zeros(0, np.int32)]).astype(np.int32)
    ones = np.ones(len(items), np.float32)
    return csr_matrix((ones, items, starts), shape=(len(queries), n_items))


def measured_again(scorer: PersonalizationModel, run: Trial) -> float:
    """How much oftener than its share says what was met is met again, over the same of the new.

    Measured on the users of a trial; 1 when that cannot be said.
    """
    known = expected = new = expected_new = 0.0
    for history, truth in run.chunks():
        seen = history.weights(0.0) > 0
        predicted = shares(scorer, history)
        of_seen = float(predicted[seen.nonzero()].sum(dtype=np.float64))
        expected += of_seen
        expected_new += len(predicted) - of_seen
        hits = float(truth.multiply(seen).count_nonzero())
        known += hits
        new += truth.count_nonzero() - hits
    if not (expected and expected_new):
        return 1.0
    # Half a case is added to both: an order is kept where one was never seen.
    return ((known + 0.5) / expected) / ((new + 0.5) / expected_new)


def shares(scorer: PersonalizationModel, history: History) -> Float32:
    """(users, n_items): the softmax over all items."""
    out = scorer.score(history)
    out -= out.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out
