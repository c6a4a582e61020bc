"""The best of a stream for many questions at once, in memory that does not grow with the stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.threads import each

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
