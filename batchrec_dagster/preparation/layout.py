"""How the lines of a ratings file are read."""

from dataclasses import dataclass, replace
from typing import Literal, Self

Column = str | int


@dataclass(frozen=True)
class Layout:
    """Which field of a line holds what: by its name in the header, or by position, from 1.

    `delimiter` is one character or `::`. `rating` is None where the file has none. `timestamp_unit`
    `auto` leaves it to the data.
    """

    delimiter: str
    user: Column
    item: Column
    rating: Column | None
    timestamp: Column
    timestamp_unit: Literal["auto", "s", "ms"] = "auto"

    @property
    def has_header(self) -> bool:
        return isinstance(self.user, str)

    def replaced(self, delimiter: str | None, timestamp_unit: Literal["auto", "s", "ms"]) -> Self:
        """This layout with what is declared in its place."""
        return replace(
            self,
            delimiter=delimiter or self.delimiter,
            timestamp_unit=self.timestamp_unit if timestamp_unit == "auto" else timestamp_unit,
        )
