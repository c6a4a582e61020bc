"""The Spark job's task and its result, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.rules import InteractionCounts, PreparationResult, Rules
from batchrec_dagster.preparation.sources.limits import Limits


@dataclass(frozen=True)
class SourceFile:
    """A file that Spark can reach by its URI; `name` is what messages call it."""

    uri: str
    name: str


@dataclass(frozen=True)
class Task:
    """Prepare `files`, in this order, and write one interactions CSV at the URI `destination`; at
    the URI `users` one Parquet file of USER_ID, TIMESTAMP and INTERACTIONS: each user, in order of
    their bytes, with their last time and how many interactions they have.

    `work` is a folder's URI for what is written meanwhile; it is removed at the end.
    """

    files: Sequence[SourceFile]
    layout: Layout
    rules: Rules
    destination: str
    users: str
    work: str
    limits: Limits = field(default_factory=Limits.from_environment)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Task:
        return cls(
            **{
                **fields,
                "files": [SourceFile(**file) for file in fields["files"]],
                "layout": Layout(**fields["layout"]),
                "rules": Rules(**fields["rules"]),
                "limits": Limits(**fields["limits"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class TaskResult(PreparationResult, InteractionCounts):
    """What became of the files; `sha256` is that of the CSV."""

    sha256: str
