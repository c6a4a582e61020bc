"""The way that can tell where and what: every row is looked at as text, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from batchrec_dagster.preparation.rows import FILE, PROBLEM, REASON, SECONDS
from batchrec_dagster.preparation.rules import BELOW_MIN_RATING, NOT_IN_FILTER
from batchrec_dagster.preparation.table import ROW, TEXT

EXAMPLES = 5

Write = Callable[[pl.DataFrame], None]


@dataclass
class Looked:
    """What was found in the rows: how many, how many left out by reason (in order of the reason),
    the first bad ones (FILE, ROW, TEXT and PROBLEM), the times of the good ones in seconds."""

    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    earliest: int | None = None
    latest: int | None = None

    @property
    def bad(self) -> dict[str, int]:
        """Of `left_out` what is wrong with rows, not what the rules say of them."""
        rules = (BELOW_MIN_RATING, NOT_IN_FILTER)
        return {reason: count for reason, count in self.left_out.items() if reason not in rules}


def look(rows: pl.LazyFrame, write: Write | None = None) -> Looked:
    """Look at the parsed rows, and hand those that are kept to `write`, in order.

    Raises PolarsError where the file cannot be read.
    """
    looked = Looked()
    left_out: Counter[str | None] = Counter()

    def batch(part: pl.DataFrame) -> None:
        looked.rows += part.height
        left_out.update(dict(part.get_column(REASON).value_counts().iter_rows()))
        bad = part.get_column(PROBLEM).is_not_null()
        if bad.any() and len(looked.examples) < EXAMPLES:
            first = part.filter(bad).head(EXAMPLES - len(looked.examples))
            looked.examples += first.select(FILE, ROW, TEXT, PROBLEM).to_dicts()
        times = part.filter(~bad).get_column(SECONDS)
        found: list[Any] = [looked.earliest, looked.latest, times.min(), times.max()]
        known = [time for time in found if time is not None]
        looked.earliest, looked.latest = min(known, default=None), max(known, default=None)
        if write is not None:
            write(part.filter(pl.col(REASON).is_null()))

    rows.sink_batches(batch, maintain_order=True)
    left_out.pop(None, None)
    looked.left_out = dict(sorted((str(reason), count) for reason, count in left_out.items()))
    return looked
