"""The Spark job's task, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchrec_dagster.preparation.file_form import Columns, FileForm
from batchrec_dagster.preparation.row_rules import Rules
from batchrec_dagster.preparation.sources.limits import Limits

ERASED_USERS_FILE, PARTS = "erased_users.json", "parts"


@dataclass(frozen=True)
class SparkTask:
    """What to prepare, and where to write it."""

    files: Mapping[str, str]
    """The URI of each file by the name that messages call it, in the order of the source."""

    form: FileForm
    columns: Columns
    rules: Rules

    unit: str
    """How times are written, as in `Columns.time_form` but not `auto`."""

    work: str
    """The URI of the folder with the list of users who were erased, ERASED_USERS_FILE. The
    interactions are written to PARTS in it, as CSV files without a header, `part-*`."""

    limits: Limits = field(default_factory=Limits.from_environment)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SparkTask:
        """The task whose fields, as those of the dataclasses in it, were written as JSON."""
        kinds = {"form": FileForm, "columns": Columns, "rules": Rules, "limits": Limits}
        return cls(**{**fields, **{name: kind(**fields[name]) for name, kind in kinds.items()}})
