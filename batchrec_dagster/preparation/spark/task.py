"""The Spark job's task and its result, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrec_dagster.preparation.layout import Columns, FileForm
from batchrec_dagster.preparation.rules import InteractionCounts, PreparationResult, Rules
from batchrec_dagster.preparation.sources.limits import Limits


@dataclass(frozen=True)
class SourceFile:
    """A file that Spark can reach."""

    uri: str

    name: str
    """What messages call the file."""


@dataclass(frozen=True)
class SparkTask:
    """What to prepare, and where to write it."""

    files: Sequence[SourceFile]
    """The files, in the order of the source."""

    form: FileForm

    columns: Columns

    rules: Rules

    destination: str
    """The URI at which the CSV of interactions is written."""

    work: str
    """The URI of a folder for what is written meanwhile. It is removed at the end."""

    suppressed: str | None = None
    """The URI of the list of users who were erased, whose rows are left out; None without one."""

    limits: Limits = field(default_factory=Limits.from_environment)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SparkTask:
        return cls(
            **{
                **fields,
                "files": [SourceFile(**file) for file in fields["files"]],
                "form": FileForm(**fields["form"]),
                "columns": Columns(**fields["columns"]),
                "rules": Rules(**fields["rules"]),
                "limits": Limits(**fields["limits"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class SparkTaskResult(PreparationResult, InteractionCounts):
    """What became of the files, and what is in the interactions."""

    sha256: str
    """The SHA-256 of the CSV, in hex."""
