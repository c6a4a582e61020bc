"""What the Spark job of the way back is to do, and what it tells afterwards, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from batchrec_dagster.preparation.spark.task import SourceFile


@dataclass(frozen=True)
class WayBack:
    """Make the table of everyone's list from what a batch job answered.

    `answers`: its `.out` files, in this order. `users`: the files of its input. `interactions`: the
    CSV of what users had, which is dropped from their lists; None drops nothing. `titles`: the URI
    of a Parquet file of item_id and title; None: the table has no titles. `destination` is the URI
    of a folder for the table's Parquet files, in the order of their names; `work` of one for what
    is written meanwhile, which is removed at the end.
    """

    kind: ClassVar[str] = "way back"
    answers: Sequence[SourceFile]
    users: Sequence[SourceFile]
    interactions: str | None
    titles: str | None
    num_results: int
    destination: str
    work: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> WayBack:
        files = {
            name: [SourceFile(**file) for file in fields[name]] for name in ("answers", "users")
        }
        return cls(**{**fields, **files})

    @staticmethod
    def done(fields: Mapping[str, Any]) -> Returned:
        return Returned(**fields)


@dataclass(frozen=True)
class Returned:
    """What became of the lines.

    `missing`: users without a line, and the first of them; `repeated_lines`: lines of users who
    have one already; `failed`: lines with an error, and `first_failure` the first one's user and
    error. Of the table: its `rows`; the `users` in it, and how many of them have a `full` list; the
    different `items`; how often an item is `repeated` in a list; how many rows have been `seen`;
    `sample`, its first rows. `dropped`: the items that were offered and had been seen.
    """

    lines: int
    missing: int
    first_missing: Sequence[str]
    repeated_lines: int
    failed: int
    first_failure: Sequence[str] | None
    rows: int
    users: int
    full: int
    items: int
    repeated: int
    seen: int
    dropped: int
    sample: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
