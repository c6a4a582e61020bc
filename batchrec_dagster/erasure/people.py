"""The people to erase, by their ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import polars as pl


@dataclass(frozen=True)
class People:
    """The people to erase."""

    ids: frozenset[str]

    @classmethod
    def of(cls, ids: Iterable[str]) -> People:
        """The people with these ids."""
        return cls(frozenset(ids))

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, user: object) -> bool:
        return user in self.ids

    @cached_property
    def series(self) -> pl.Series:
        """The ids, in order."""
        return pl.Series("user_id", sorted(self.ids), pl.String)

    def are_in(self, column: str) -> pl.Expr:
        """Whether a row's value in the column is one of the ids; false for none."""
        return pl.col(column).is_in(self.series.implode()).fill_null(value=False)
