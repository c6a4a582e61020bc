"""What the report remembers between runs: the data of the last one, and of each edition."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.editions import (
    EditionDiff,
    compare_editions,
    explain_incomparability,
    read_ndcg,
)
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.verdict import PreviousEdition, Verdict
from batchrec_dagster.storage.object_store import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.paths import PipelineFiles
from batchrec_dagster.storage.published_table import ABOUT, Edition, read_about

# The name of the report's record in the storage.
REPORT = "recommendation_report"
# The record has this many editions.
MOST_EDITIONS = 100


@dataclass(frozen=True)
class EditionHistory:
    """The published table of a pipeline, its older editions, and what the report knew of each.

    All methods raise StorageError.
    """

    files: PipelineFiles

    def find_previous(self, edition: Edition) -> Edition | None:
        """The newest kept edition with other lists and a lower number; None if there is none."""
        for candidate in self.files.table.older():
            if candidate.number < edition.number and candidate.version != edition.version:
                return candidate
        return None

    def is_newest(self, edition: Edition) -> bool:
        """Whether no edition has a higher number. After a rollback, one has."""
        return all(candidate.number <= edition.number for candidate in self.files.table.older())

    def read(self) -> Mapping[str, Any]:
        """What the report knew of all editions, by their number as text."""
        with suppress(DamagedObjectError):
            editions: Mapping[str, Any] = self.files.record(REPORT).get("editions", {})
            return editions
        return {}

    def read_record(self, edition: Edition) -> Mapping[str, Any]:
        """What the report knew of this edition: `data` and `verdict`, or nothing."""
        record: Mapping[str, Any] = self.read().get(str(edition.number), {})
        return record if record.get("version") == edition.version else {}

    def write_record(self, edition: Edition, facts: Facts) -> None:
        """Remember what the report knows of this edition."""
        record_of_edition = {
            "version": edition.version,
            "data": asdict(facts.data),
            "verdict": asdict(facts.verdict),
        }
        editions = {**self.read(), str(edition.number): record_of_edition}
        numbers_kept = sorted(editions, key=int)[-MOST_EDITIONS:]
        record = {"editions": {number: editions[number] for number in numbers_kept}}
        self.files.write_record(REPORT, record)

    def read_verdict(self, edition: Edition) -> Verdict | None:
        """The report's verdict on the edition; None if it has none."""
        verdict = self.read_record(edition).get("verdict")
        return Verdict(**verdict) if verdict else None

    def compare(self, before: Edition, after: Edition) -> EditionDiff:
        """What changed from one edition to the other."""
        store = self.files.storage.store
        with store.open(before.uri) as old, store.open(after.uri) as new:
            return compare_editions(
                (before, pl.scan_parquet(old), self._read_data(before)),
                (after, pl.scan_parquet(new), self._read_data(after)),
            )

    def _read_data(self, edition: Edition) -> DataFacts | None:
        data = self.read_record(edition).get("data")
        return DataFacts(**data) if data else None

    def read_inputs(self) -> RunInputs | None:
        """The data of the last run; None if there was none, or if its file is damaged."""
        try:
            file = io.BytesIO(self.files.storage.store.get(self._inputs_uri))
            about = read_about(file)
            file.seek(0)
            return RunInputs.read(about, pl.read_parquet(file).to_series())
        except (ObjectNotFoundError, pl.exceptions.PolarsError, OSError, ValueError, KeyError):
            return None

    def write_inputs(self, inputs: RunInputs) -> None:
        """Remember the data of this run, for the next run to compare with."""
        table = inputs.items.alias("item").to_frame().to_arrow()
        file = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(inputs.about)}), file)
        self.files.storage.store.put(self._inputs_uri, file.getvalue())

    @property
    def _inputs_uri(self) -> str:
        return self.files.storage.uri(self.files.storage_keys.inputs)


def describe_previous_edition(before: Edition | None, edition: Edition) -> PreviousEdition | None:
    """What the verdict on an edition needs to know of the one before it."""
    if before is None:
        return None
    model = before.about.get("solution_version_arn")
    return PreviousEdition(
        edition=before.number,
        ndcg=read_ndcg(before),
        changed=explain_incomparability(before, edition),
        same_model=model is not None and model == edition.about.get("solution_version_arn"),
    )
