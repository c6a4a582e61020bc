"""Distinct pairs of users and items, such as what each user has interacted with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

# No pair has this number: users and items are numbered from 0, below 2**32 - 1.
NO_PAIR = 2**64 - 1

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.int32]]
"""Items at each place (row) of each list (column)."""
Masks = np.ndarray[tuple[int, int], np.dtype[np.bool_]]
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

    @classmethod
    def read_selections(cls, pairs: pl.LazyFrame, selections: Sequence[str]) -> Iterator[Pairs]:
        """The pairs of each selection of these rows, in turn. The rows are read once.

        pairs: the columns user and item, and one of booleans for each selection. Rows with a null
            are left out.
        selections: the names of these columns.
        """
        selected = pairs.filter(pl.any_horizontal(*selections)) if selections else pairs.clear()
        encoded = (
            selected.select(_encode_pairs(), *selections).drop_nulls().collect(engine="streaming")
        )
        codes = encoded.get_column("pair").to_numpy()
        masks = [encoded.get_column(name).to_numpy() for name in selections]
        return (cls(codes[mask]) for mask in masks)

    @property
    def users(self) -> Numbers:
        """The user of each pair."""
        return (self._codes >> 32).astype(np.int64)

    @property
    def items(self) -> Numbers:
        """The item of each pair."""
        return (self._codes & 0xFFFFFFFF).astype(np.int64)

    def count_items(self) -> Numbers:
        """How many items each user has, up to the last user with any."""
        if not len(self._codes):
            return np.zeros(0, dtype=np.int64)
        users = np.arange(int(self._codes[-1] >> np.uint64(32)) + 2, dtype=np.uint64)
        return np.diff(np.searchsorted(self._codes, users << np.uint64(32)))

    def contain(self, pairs: pl.DataFrame) -> pl.Series:
        """Whether each of these pairs is among them.

        pairs: the columns user and item, null where one has no number.
        """
        codes = pairs.select(_encode_pairs().fill_null(NO_PAIR)).get_column("pair").to_numpy()
        return pl.Series(self._find(codes))

    def contain_numbers(self, users: Numbers, items: Numbers) -> Mask:
        """Whether each of these pairs of numbers is among them."""
        return self._find((users.astype(np.uint64) << np.uint64(32)) | items.astype(np.uint64))

    def between_users(self, first: int, end: int) -> tuple[Numbers, Numbers]:
        """The users and the items of the pairs whose user is from `first` to before `end`."""
        start, stop = np.searchsorted(self._codes, np.array([first, end], np.uint64) << 32)
        codes = self._codes[start:stop]
        return (codes >> 32).astype(np.int64), (codes & 0xFFFFFFFF).astype(np.int64)

    def list_items(self, users: Numbers) -> list[Numbers]:
        """The items of each of these users, in order. Users without a number have none."""
        numbers = users.astype(np.uint64)
        starts = np.searchsorted(self._codes, numbers << np.uint64(32))
        ends = np.searchsorted(self._codes, (numbers + np.uint64(1)) << np.uint64(32))
        return [
            (self._codes[start:end] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]

    def _find(self, codes: Codes) -> Mask:
        if not len(self._codes):
            return np.zeros(len(codes), dtype=bool)
        places = np.searchsorted(self._codes, codes)
        is_pair: Mask = self._codes[np.minimum(places, len(self._codes) - 1)] == codes
        return is_pair


class IdNumbers:
    """The numbers of distinct ids, which count from 0.

    It is made once, while `find_positions` would look at all ids again for each table.
    """

    def __init__(self, ids: pl.Series) -> None:
        self._size = len(ids)
        self._type = pl.Categorical(pl.Categories.random(physical=pl.UInt32))
        # Polars numbers categories as they come, and forgets them with the last column that has
        # them.
        self._ids = ids.cast(self._type)

    def find(self, ids: pl.Series) -> Numbers:
        """The number of each id; the number after the last for any other id, and for null."""
        numbers = ids.cast(self._type).to_physical().fill_null(self._size).to_numpy()
        numbered: Numbers = np.minimum(numbers, self._size).astype(np.int64)
        return numbered


def find_positions(column: str, values: pl.Series) -> pl.Expr:
    """The position of the column's value in these distinct values; null if it is not there."""
    return pl.col(column).cast(pl.Enum(values), strict=False).to_physical()


def _encode_pairs() -> pl.Expr:
    user, item = pl.col("user").cast(pl.UInt64), pl.col("item").cast(pl.UInt64)
    return (user * 2**32 + item).alias("pair")
