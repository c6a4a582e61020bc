"""The record of the prepared interactions, which later steps read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.row_rules import InteractionCounts, PreparationResult
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.data_sizes import DataSize
from batchrec_dagster.steps.data.stored_files import PreparedRecord
from batchrec_dagster.storage.records import load

ASSET = "interactions"


class InteractionsRecord(PreparedRecord, frozen=True):
    """The record of the prepared interactions, with their counts."""

    rows: PreparationResult
    """The numbers of rows that were read, kept and left out."""
    counts: InteractionCounts
    """The counts of the kept rows."""
    size: DataSize
    """The size of the interactions, which an edition keeps for comparison with later data."""
    engine: str
    """The engine that prepared the interactions."""
    job: Mapping[str, Any]
    """The metadata of the Spark job; empty without a Spark job."""


def read_interactions_record(step: StepContext) -> InteractionsRecord:
    """Read the record of the interactions. Raises UserError if there is no record."""
    uri = step.files.record_uri(ASSET)
    record = load(step.storage.store, uri, InteractionsRecord)
    if record is None:
        raise UserError(f"there is no {step.storage.where(uri)}: materialize interactions first")
    return record
