"""The interactions that everything learns from: ids kept apart from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.learning.threads import pieces


class TrainingError(ValueError):
    """The data or the hyperparameters cannot be trained; the message is fit for a user to read."""


class ModelFileError(Exception):
    """A saved model or saved interactions, missing, incomplete or damaged; names the file."""


Ids = npt.NDArray[np.object_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SORTED_AT_ONCE = 4 << 20


@dataclass(frozen=True)
class Interactions:
    """Who met what, and when: one row an interaction, sorted by user, then time, then item id.

    The order is a function of the data alone, so shuffled input gives the same object.
    """

    user_ids: Ids  # (n_users,) distinct str, sorted by code point
    item_ids: Ids  # (n_items,) distinct str, sorted by code point
    users: Int32  # (n,) index into user_ids
    items: Int32  # (n,) index into item_ids
    timestamps: Int64  # (n,) epoch seconds

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pl.LazyFrame) -> Interactions:
        """Take a frame with USER_ID and ITEM_ID (String) and TIMESTAMP (Int64), in any order.

        Of a lazy frame the strings are never in memory all at once: 32 bytes an interaction are.
        """
        rows = frame.lazy()
        # Enum turns strings into codes by hash; sorted categories make code order id order.
        user_ids, item_ids = _distinct(rows, "USER_ID"), _distinct(rows, "ITEM_ID")
        coded = rows.select(
            users=pl.col("USER_ID").cast(pl.Enum(user_ids)).to_physical().cast(pl.Int32),
            timestamps=pl.col("TIMESTAMP").cast(pl.Int64),
            items=pl.col("ITEM_ID").cast(pl.Enum(item_ids)).to_physical().cast(pl.Int32),
        ).collect(engine="streaming")
        return cls(_objects(user_ids), _objects(item_ids), *in_order(coded, len(user_ids)))

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def starts(self) -> Int64:
        """(n_users + 1,): the rows of user u are starts[u]:starts[u + 1], oldest first."""
        counts = np.bincount(self.users, minlength=len(self.user_ids))
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def item_counts(self) -> Int64:
        """(n_items,): how many interactions each item has."""
        return np.bincount(self.items, minlength=len(self.item_ids)).astype(np.int64)

    def of(self, rows: npt.NDArray[np.bool_]) -> Interactions:
        """Keep the rows of a (n,) mask; ids and indices stay as they are."""
        return Interactions(
            self.user_ids,
            self.item_ids,
            self.users[rows],
            self.items[rows],
            self.timestamps[rows],
        )


def positions(ids: Ids, wanted: Sequence[str] | Ids) -> Int32:
    """Where each wanted id stands in `ids`, -1 when it does not; `ids` are distinct."""
    known = pl.DataFrame({"id": _strings(ids), "at": np.arange(len(ids), dtype=np.int32)})
    found = pl.DataFrame({"id": _strings(wanted)}).join(
        known, on="id", how="left", maintain_order="left"
    )
    return found["at"].fill_null(-1).to_numpy()


def _distinct(rows: pl.LazyFrame, column: str) -> pl.Series:
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort()


def in_order(coded: pl.DataFrame, n_users: int) -> tuple[Int32, Int32, Int64]:
    """The columns users, items and timestamps by user, time and item.

    To sort all rows at once would take twice the memory that they take.
    """
    counts = np.bincount(coded["users"].to_numpy(), minlength=n_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    users = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    items, timestamps = np.empty(len(users), np.int32), np.empty(len(users), np.int64)
    for part in pieces(starts, SORTED_AT_ONCE):
        rows = slice(starts[part.start], starts[part.stop])
        of_part = pl.col("users").is_between(part.start, part.stop, closed="left")
        block = coded.filter(of_part).sort("users", "timestamps", "items")
        items[rows], timestamps[rows] = block["items"].to_numpy(), block["timestamps"].to_numpy()
    return users, items, timestamps


def _strings(values: Sequence[str] | Ids) -> pl.Series:
    return pl.Series(list(values), dtype=pl.String)


def _objects(ids: pl.Series) -> npt.NDArray[Any]:
    # Python strings, not numpy's fixed width: that drops trailing NULs and pads every id to the
    # longest (256 characters are allowed, 1 KiB each).
    out = np.empty(len(ids), dtype=object)
    out[:] = ids.to_list()
    return out
