"""What the report remembers between runs: the data of each edition, and the verdict on it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from pathlib import PurePosixPath

import polars as pl
import pyarrow.parquet as pq
from pydantic import BaseModel

from batchrec_dagster.personalize.measurements import read_ndcg
from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.editions import (
    EditionDiff,
    compare_editions,
    explain_incomparability,
)
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.verdict import PreviousEdition, Verdict
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.nights import EditionsRecord, Night
from batchrec_dagster.storage.objects import ObjectNotFoundError
from batchrec_dagster.storage.records import load, save

# The name of the report's record in the storage.
REPORT = "recommendation_report"
# The key in the metadata of the file of an edition's items, whose value is what else is known.
INPUTS_KEY = b"batchrec"
# The record has this many editions.
MOST_EDITIONS = 100


class ReportedEdition(BaseModel, frozen=True):
    """What the report knew of an edition."""

    version: str
    verdict: Verdict | None = None
    data: DataFacts | None = None
    changes: str | None = None
    """What changed since the edition before, in a sentence."""


class ReportRecord(BaseModel, frozen=True):
    """The report's record: what it knew of each edition, by its number."""

    editions: dict[int, ReportedEdition] = {}


@dataclass(frozen=True)
class EditionHistory:
    """The published table of a pipeline, its older editions, and what the report knew of each.

    All methods raise UserError.
    """

    files: ListFiles

    @cached_property
    def record(self) -> EditionsRecord:
        """What each night did, as it was when this was first read."""
        return self.files.editions.record()

    def find_baseline(self, edition: Edition) -> Edition | None:
        """What readers had before this edition was first published; None if it is not kept.

        See `EditionsRecord.find_before`.
        """
        baseline = self.record.find_before(edition)
        if baseline is None:
            return None
        older = self.files.editions.older()
        return next((candidate for candidate in older if baseline.is_of(candidate)), None)

    def find_restoration(self, edition: Edition) -> Night | None:
        """How this edition, which is live, became so again; None if it was not live before."""
        live = self.record.live
        is_restored = live is not None and live.ended == "restored" and live.is_of(edition)
        return live if is_restored else None

    def read(self, edition: Edition) -> ReportedEdition | None:
        """What the report knew of this edition; None if it knew nothing."""
        reported = self._read_all().get(edition.number)
        return reported if reported is not None and reported.version == edition.version else None

    def write(self, edition: Edition, facts: Facts) -> None:
        """Remember what the report knows of this edition."""
        reported = ReportedEdition(
            version=edition.version,
            verdict=facts.verdict,
            # The facts may be of newer data than those that the edition was made from.
            data=self.read_data(edition) if facts.run.earlier_data else facts.data,
            changes=facts.changes.summary if facts.changes is not None else None,
        )
        editions = {**self._read_all(), edition.number: reported}
        numbers_kept = sorted(editions)[-MOST_EDITIONS:]
        record = ReportRecord(editions={number: editions[number] for number in numbers_kept})
        save(self.files.storage.store, self._uri, record)

    def _read_all(self) -> dict[int, ReportedEdition]:
        record = load(self.files.storage.store, self._uri, ReportRecord)
        return {} if record is None else record.editions

    @property
    def _uri(self) -> str:
        return self.files.uri(self.files.keys.list_record(REPORT))

    def read_verdict(self, edition: Edition) -> Verdict | None:
        """The report's verdict on the edition; None if it has none."""
        reported = self.read(edition)
        return None if reported is None else reported.verdict

    def compare(self, before: Edition, after: Edition) -> EditionDiff:
        """What changed from one edition to the other.

        Raises DamagedObjectError if the file of one of them is damaged.
        """
        table = self.files.editions
        return compare_editions(
            (before, table.read_rows(before), self.read_data(before)),
            (after, table.read_rows(after), self.read_data(after)),
        )

    def read_data(self, edition: Edition) -> DataFacts | None:
        """The numbers of the edition's data, as the report knows them; None if it does not."""
        reported = self.read(edition)
        return None if reported is None else reported.data

    def read_inputs(self, edition: Edition) -> RunInputs | None:
        """The data that this edition was made from.

        None if the report does not know them, or if their file is damaged.
        """
        key = self.files.keys.edition_inputs(edition.version)
        try:
            file = io.BytesIO(self.files.storage.store.get(self.files.uri(key)))
            facts = json.loads((pq.read_metadata(file).metadata or {})[INPUTS_KEY])
            file.seek(0)
            return RunInputs.read(facts, pl.read_parquet(file).to_series())
        except (ObjectNotFoundError, pl.exceptions.PolarsError, OSError, ValueError, KeyError):
            return None

    def write_inputs(self, edition: Edition, inputs: RunInputs) -> None:
        """Remember the data of this edition, for the next one to compare with.

        Those of editions that are not kept are deleted.
        """
        store, keys = self.files.storage.store, self.files.keys
        table = inputs.items.alias("item").to_frame().to_arrow()
        file = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({INPUTS_KEY: json.dumps(inputs.facts)}), file)
        store.put(self.files.uri(keys.edition_inputs(edition.version)), file.getvalue())
        versions = {kept.version for kept in [edition, *self.files.editions.older()]}
        for info in store.list(self.files.uri(keys.edition_inputs())):
            if PurePosixPath(info.uri).stem not in versions:
                store.delete(info.uri)


def describe_previous_edition(before: Edition | None, edition: Edition) -> PreviousEdition | None:
    """What the verdict on an edition needs to know of the one before it."""
    if before is None:
        return None
    model = before.solution_version_arn
    return PreviousEdition(
        edition=before.number,
        ndcg=read_ndcg(before),
        changed=explain_incomparability(before, edition),
        same_model=model is not None and model == edition.solution_version_arn,
    )


def describe_restoration(night: Night) -> str:
    """Since when readers have an edition again, and why, as the verdict says it."""
    time = f"{night.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    text = f"readers have edition {night.edition} again since {time}"
    if night.replaced is not None:
        text += f", in place of edition {night.replaced}, which was rolled back"
    return text
