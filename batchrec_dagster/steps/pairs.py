"""Distinct pairs of users and items, such as what each user has interacted with."""

from __future__ import annotations

import numpy as np
import polars as pl

from batchrec_dagster.steps.numbered_ids import Numbers

# No pair has this number: users and items are numbered from 0, below 2**32 - 1.
NO_PAIR = 2**64 - 1

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Codes = np.ndarray[tuple[int], np.dtype[np.uint64]]


class Pairs:
    """Distinct pairs of a user's and an item's number, sorted.

    They take 8 bytes a pair, and 16 while they are being built.

    codes: the user's number and the item's in one, as they are read. The array itself is sorted.
    """

    def __init__(self, codes: Codes) -> None:
        # np.unique would hash them: ten times the time, five times the memory.
        codes.sort()
        is_repeated = codes[1:] == codes[:-1]
        self._codes = codes[np.append(True, ~is_repeated)] if is_repeated.any() else codes

    @classmethod
    def read(cls, pairs: pl.LazyFrame) -> Pairs:
        """The pairs of these rows.

        pairs: the columns user and item. Rows with a null are left out.
        """
        encoded = pairs.select(_encode_pairs()).drop_nulls().collect(engine="streaming")
        return cls(encoded.get_column("pair").to_numpy(writable=True))

    @property
    def users(self) -> Numbers:
        """The user of each pair."""
        return (self._codes >> 32).astype(np.int64)

    @property
    def items(self) -> Numbers:
        """The item of each pair."""
        return (self._codes & 0xFFFFFFFF).astype(np.int64)

    def contain(self, pairs: pl.DataFrame) -> pl.Series:
        """Whether each of these pairs is among them.

        pairs: the columns user and item, null where one has no number.
        """
        codes = pairs.select(_encode_pairs().fill_null(NO_PAIR)).get_column("pair").to_numpy()
        return pl.Series(self._find(codes))

    def _find(self, codes: Codes) -> Mask:
        if not len(self._codes):
            return np.zeros(len(codes), dtype=bool)
        places = np.searchsorted(self._codes, codes)
        is_pair: Mask = self._codes[np.minimum(places, len(self._codes) - 1)] == codes
        return is_pair


def _encode_pairs() -> pl.Expr:
    user, item = pl.col("user").cast(pl.UInt64), pl.col("item").cast(pl.UInt64)
    return (user * 2**32 + item).alias("pair")
