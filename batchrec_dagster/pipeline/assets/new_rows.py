"""Which interactions are new since the last import, and whether they alone can be imported."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.datasets import (
    MIN_INTERACTIONS,
    USER_ID,
    csv_types,
    interactions_columns,
)
from batchrec_dagster.storage.paths import Places
from batchrec_dagster.storage.resource import StorageResource

# Personalize's import modes, and none; its other mode of training.
FULL, INCREMENTAL, UNCHANGED = "FULL", "INCREMENTAL", "UNCHANGED"
UPDATE = "UPDATE"

# "Amazon Personalize endpoints and quotas": of one incremental import.
MAX_BYTES = 1_000_000_000

# Rows that are compared at once; more are compared user by user range, in as many passes.
ROWS_AT_ONCE = 10_000_000


@dataclass(frozen=True)
class Import:
    """What to import: everything, the new rows at `uri`, or nothing; and why."""

    mode: str
    why: str
    uri: str = ""
    rows: int = 0


def what_is_new(
    record: Mapping[str, Any], version: str, storage: StorageResource, pipeline: Pipeline
) -> Import:
    """Compares the interactions, of this version, with those of the last import, as its record has
    it; new rows are written where they can be imported from."""
    kept = record.get("imported_interactions")
    if kept is None or storage.store.head(kept) is None:
        return Import(FULL, "there is no earlier import to add to")
    age = datetime.now(UTC) - datetime.fromisoformat(record["full_at"])
    late = age >= timedelta(pipeline.incremental.full_every_days)
    same = version == record["interactions_version"]
    if same and not (late and version != record["full_version"]):
        return Import(UNCHANGED, "nothing is new")
    if late:
        return Import(FULL, f"the last full import is {age.days} days old")
    columns = interactions_columns(
        event_type=pipeline.rules.event_type, event_value=pipeline.event_value
    )
    with (
        storage.local_file(kept) as before,
        storage.local_file(storage.uri(pipeline.places.interactions)) as after,
        tempfile.TemporaryDirectory() as folder,
    ):
        written = Path(folder) / "new.csv"
        rows, gone = compare(before, after, written, columns)
        size = written.stat().st_size
        if gone:
            return Import(FULL, f"{gone:,} rows are gone or changed")
        if not rows:
            return Import(UNCHANGED, "no row is new")
        if rows < MIN_INTERACTIONS:
            return Import(FULL, f"{rows:,} new rows are fewer than an import takes")
        if size > MAX_BYTES:
            return Import(FULL, f"{size / 1e9:.1f} GB are more than an incremental import takes")
        uri = storage.uri(pipeline.places.new_interactions(version))
        storage.store.put(uri, written)
    return Import(INCREMENTAL, f"{rows:,} rows are new", uri, rows)


def compare(before: Path, after: Path, written: Path, columns: list[str]) -> tuple[int, int]:
    """Write the rows of `after` that `before` lacks, each once; how many they are, and how many
    different rows `before` has that `after` lacks."""
    old, new = (
        pl.scan_csv(path, schema=csv_types(columns), glob=False) for path in (before, after)
    )
    total = pl.concat([old, new]).select(pl.len()).collect(engine="streaming").item()
    parts = -(-total // ROWS_AT_ONCE)
    rows = gone = 0
    with written.open("wb") as file:
        for part in range(parts):
            mine = pl.col(USER_ID).hash(0) % parts == part
            ours, theirs = old.filter(mine).unique(), new.filter(mine).unique()
            added = _lacking(theirs, ours, columns)
            added.write_csv(file, include_header=part == 0)
            rows += added.height
            gone += _lacking(ours, theirs, columns).height
    return rows, gone


def imported(
    before: Mapping[str, Any],
    done: Import,
    version: str,
    data_version: str,
    storage: StorageResource,
    places: Places,
) -> dict[str, str]:
    """What the next import has to know of this one, and how to train on the data: `version` is that
    of the interactions, of which a copy is kept, `data_version` that of all data."""
    full = done.mode == FULL
    kept = storage.uri(places.imported_interactions(version))
    if storage.store.head(kept) is None:
        storage.store.copy(storage.uri(places.interactions), kept)
    full_data_version = data_version if full else before["full_data_version"]
    return {
        "imported_interactions": kept,
        "interactions_version": version,
        "full_version": version if full else before["full_version"],
        "full_data_version": full_data_version,
        "full_at": datetime.now(UTC).isoformat() if full else before["full_at"],
        "training_mode": FULL if full_data_version == data_version else UPDATE,
    }


def clear_away(storage: StorageResource, places: Places, *records: Mapping[str, Any]) -> None:
    """Delete the copies of imports that none of the records has, and the parts."""
    needed = {record.get("imported_interactions") for record in records}
    for key in (places.imported_interactions("x"), places.new_interactions("x")):
        folder = key.rpartition("/")[0] + "/"
        for found in storage.store.list(storage.uri(folder)):
            if found.uri not in needed:
                storage.store.delete(found.uri)


def _lacking(table: pl.LazyFrame, other: pl.LazyFrame, columns: list[str]) -> pl.DataFrame:
    return table.join(other, on=columns, how="anti", nulls_equal=True).collect(engine="streaming")
