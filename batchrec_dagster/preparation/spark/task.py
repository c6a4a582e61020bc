"""The task of a Spark job, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchrec_dagster.preparation.file_form import Columns, FileForm
from batchrec_dagster.preparation.row_rules import RowRules
from batchrec_dagster.preparation.sources.limits import Limits

ERASED_USERS_FILE, PARTS = "erased_users.json", "parts"


@dataclass(frozen=True)
class SparkTask:
    """The files that a Spark job prepares, the rules, and the folder for the result."""

    files: Mapping[str, str]
    """The URI of each file by its name in messages, in the order of the source."""

    form: FileForm
    columns: Columns
    rules: RowRules

    unit: str
    """The form of the times: a value of `Columns.time_form` other than `auto`."""

    work: str
    """The URI of the folder that the job reads the erased users from and writes to.

    The list of erased users is in ERASED_USERS_FILE. The interactions are written to PARTS in this
    folder, as CSV files `part-*` without a header.
    """

    limits: Limits = field(default_factory=Limits.from_environment)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SparkTask:
        """Return the task with these fields, which were written as JSON.

        In `fields`, each nested dataclass is a mapping of its own fields.
        """
        kinds = {"form": FileForm, "columns": Columns, "rules": RowRules, "limits": Limits}
        return cls(**{**fields, **{name: kind(**fields[name]) for name, kind in kinds.items()}})
