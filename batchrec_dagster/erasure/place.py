"""A place that has people's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from batchrec_dagster.erasure.people import People


@dataclass(frozen=True)
class Amount:
    """How much of the people's data a place has."""

    number: int
    unit: str
    """What is counted, in the plural: rows."""
    is_of_people: bool = True
    """Whether all of it is the people's, so that nothing is left once it is erased. Otherwise it is
    what has to be searched for them."""

    def __str__(self) -> str:
        return f"{self.number:,} {self.unit.removesuffix('s') if self.number == 1 else self.unit}"


class Place(Protocol):
    """A place that has people's data."""

    @property
    def name(self) -> str:
        """What is there, in words."""

    @property
    def consequence(self) -> str:
        """What erasing does there, in words."""

    def count(self, people: People) -> Amount:
        """How much of their data is there."""

    def erase(self, people: People) -> int:
        """Erase it, and return how much it was, in the unit of `count`.

        It may be called again after it was killed.
        """
