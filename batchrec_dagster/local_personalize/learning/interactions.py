"""Interactions as sorted arrays of numbers, with the ids kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.learning.threads import pieces
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID


class TrainingError(ValueError):
    """The data cannot be trained on; the message is for the user."""


class ModelFileError(Exception):
    """A file of a saved model or of saved interactions is missing or damaged; names the file."""


Ids = npt.NDArray[np.object_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SORTED_AT_ONCE = 4 << 20


@dataclass(frozen=True)
class Interactions:
    """One row per interaction, sorted by user, time and item id.

    The order depends on the data alone, so shuffled input gives the same object.
    """

    user_ids: Ids  # (n_users,) distinct str, sorted by code point
    item_ids: Ids  # (n_items,) distinct str, sorted by code point
    users: Int32  # (n,) index into user_ids
    items: Int32  # (n,) index into item_ids
    timestamps: Int64  # (n,) epoch seconds

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pl.LazyFrame) -> Interactions:
        """From a frame with USER_ID and ITEM_ID (String) and TIMESTAMP (Int64), in any order.

        Of a lazy frame, the strings are never in memory all at once; memory is 32 bytes a row.
        """
        rows = frame.lazy()
        # With sorted categories, the order of an Enum's codes is the order of the ids.
        user_ids, item_ids = _distinct(rows, USER_ID), _distinct(rows, ITEM_ID)
        coded = rows.select(
            users=pl.col(USER_ID).cast(pl.Enum(user_ids)).to_physical().cast(pl.Int32),
            timestamps=pl.col(TIMESTAMP).cast(pl.Int64),
            items=pl.col(ITEM_ID).cast(pl.Enum(item_ids)).to_physical().cast(pl.Int32),
        ).collect(engine="streaming")
        return cls(_objects(user_ids), _objects(item_ids), *sort_rows(coded, len(user_ids)))

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def starts(self) -> Int64:
        """(n_users + 1,): the rows of user u are starts[u]:starts[u + 1], oldest first."""
        counts = np.bincount(self.users, minlength=len(self.user_ids))
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def item_counts(self) -> Int64:
        """(n_items,): the number of interactions of each item."""
        return np.bincount(self.items, minlength=len(self.item_ids)).astype(np.int64)

    def filter(self, rows: npt.NDArray[np.bool_]) -> Interactions:
        """The rows of a (n,) mask, over the same ids."""
        return Interactions(
            self.user_ids,
            self.item_ids,
            self.users[rows],
            self.items[rows],
            self.timestamps[rows],
        )


def popular_first(interactions: Interactions) -> npt.NDArray[np.intp]:
    """(n_items,) item indices by falling count, then rising id: the order of every model's items.

    Ties between scores go to the lower index, so to the more popular item.
    """
    return np.argsort(-interactions.item_counts, kind="stable")


def log_popularity(
    interactions: Interactions, order: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """(n_items,): log of each item's count, so that a softmax gives its share of all interactions.

    Items without interactions count 0.5.
    """
    return np.log(np.maximum(interactions.item_counts[order], 0.5)).astype(np.float32)


def positions(ids: Ids, wanted: Sequence[str] | Ids) -> Int32:
    """(len(wanted),): the index of each wanted id in the distinct `ids`, -1 if it is not there."""
    known = pl.DataFrame({"id": _strings(ids), "at": np.arange(len(ids), dtype=np.int32)})
    found = pl.DataFrame({"id": _strings(wanted)}).join(
        known, on="id", how="left", maintain_order="left"
    )
    return found["at"].fill_null(-1).to_numpy()


def _distinct(rows: pl.LazyFrame, column: str) -> pl.Series:
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort()


def sort_rows(coded: pl.DataFrame, n_users: int) -> tuple[Int32, Int32, Int64]:
    """The columns users, items and timestamps, sorted by user, time and item.

    Block by block: sorting all rows at once would take twice their memory.
    """
    counts = np.bincount(coded["users"].to_numpy(), minlength=n_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    users = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    items, timestamps = np.empty(len(users), np.int32), np.empty(len(users), np.int64)
    for users_block in pieces(starts, SORTED_AT_ONCE):
        first, last = users_block.start, users_block.stop
        rows = slice(starts[first], starts[last])
        in_block = pl.col("users").is_between(first, last, closed="left")
        block = coded.filter(in_block).sort("users", "timestamps", "items")
        items[rows], timestamps[rows] = block["items"].to_numpy(), block["timestamps"].to_numpy()
    return users, items, timestamps


def _strings(values: Sequence[str] | Ids) -> pl.Series:
    return pl.Series(list(values), dtype=pl.String)


def _objects(ids: pl.Series) -> npt.NDArray[Any]:
    # Not numpy's fixed-width strings: they drop trailing NULs and pad every id to the longest
    # (256 characters are allowed, 1 KiB each).
    out = np.empty(len(ids), dtype=object)
    out[:] = ids.to_list()
    return out
