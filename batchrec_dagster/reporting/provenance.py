"""What made the lists, from which data, and on how many people their metrics were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from batchrec_dagster.personalize.evidence import ALL, EMBEDDED

GENERATED = "sample://"
# With fewer tested users, the metrics depend on who was drawn.
SMALL = 100


@dataclass(frozen=True)
class Provenance:
    """engine: in words; source: of the ratings, safe to show; first, last: days of the
    interactions, None if unknown; tested: users whom the metrics were measured on, None if unknown.
    """

    engine: str | None
    source: str | None
    first: str | None = None
    last: str | None = None
    tested: int | None = None

    @classmethod
    def of_edition(cls, about: Mapping[str, Any]) -> Self:
        """From the metadata of a published table."""
        tested = about.get("evidence", {}).get(f"{ALL}/users")
        return cls(
            about.get("engine"), about.get("source"), tested=None if tested is None else int(tested)
        )

    @property
    def lines(self) -> dict[str, str]:
        """By label what is known of each."""
        return {
            "Model": self._model(),
            "Data": self._data(),
            "Measured on": measured_on(self.tested),
        }

    def _model(self) -> str:
        if self.engine == EMBEDDED:
            return "trained by batchrec's embedded engine, not by Amazon"
        return f"trained by {self.engine}" if self.engine else "not known what trained it"

    def _data(self) -> str:
        if self.source is None:
            return "not known which"
        made_up = self.source.startswith(GENERATED)
        data = f"generated, no real people ({self.source})" if made_up else self.source
        if self.first == "":
            return f"{data}, without times"
        return f"{data}, {self.first} to {self.last}" if self.first else data


def measured_on(tested: int | None) -> str:
    """The held-out users whom the metrics were measured on, in words."""
    if tested is None:
        return "held-out users; how many is not known"
    small = ": a small sample" if tested < SMALL else ""
    return f"{tested:,} held-out {'user' if tested == 1 else 'users'}{small}"
