"""The interactions that everything learns from: ids kept apart from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Ids = npt.NDArray[np.object_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


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
    def from_frame(cls, frame: pl.DataFrame) -> Interactions:
        """Take a frame with USER_ID and ITEM_ID (String) and TIMESTAMP (Int64), in any order."""
        # Enum turns strings into codes by hash; sorted categories make code order id order.
        user_ids = frame["USER_ID"].unique().sort()
        item_ids = frame["ITEM_ID"].unique().sort()
        coded = frame.select(
            users=pl.col("USER_ID").cast(pl.Enum(user_ids)).to_physical().cast(pl.Int32),
            timestamps=pl.col("TIMESTAMP").cast(pl.Int64),
            items=pl.col("ITEM_ID").cast(pl.Enum(item_ids)).to_physical().cast(pl.Int32),
        ).sort("users", "timestamps", "items")
        return cls(
            user_ids=_objects(user_ids),
            item_ids=_objects(item_ids),
            users=coded["users"].to_numpy(),
            items=coded["items"].to_numpy(),
            timestamps=coded["timestamps"].to_numpy(),
        )

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


def _strings(values: Sequence[str] | Ids) -> pl.Series:
    return pl.Series(list(values), dtype=pl.String)


def _objects(ids: pl.Series) -> npt.NDArray[Any]:
    # Python strings, not numpy's fixed width: that drops trailing NULs and pads every id to the
    # longest (256 characters are allowed, 1 KiB each).
    out = np.empty(len(ids), dtype=object)
    out[:] = ids.to_list()
    return out
