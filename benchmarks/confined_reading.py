"""What it costs to read files of complex formats in a child process with limits.

    python benchmarks/confined_reading.py [--rows 5000000] [--out confined_reading.json]

First a small file of each format: the time to open it, next to that of the same rows as plain CSV,
which needs no child; and the time of one more such file in the same child. Then a large Parquet
file: the time to write the copy that is read, next to that of the preparation of the interactions
from it as a whole.
"""

from __future__ import annotations

import argparse
import gzip
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from report import RESULTS, table, write

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.storage.durable import temporary_folder

START = 1_500_000_000


def generate_rows(count: int) -> pl.DataFrame:
    """Ratings of this many rows."""
    chance = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user_id": chance.integers(1, max(2, count // 50), count),
            "item_id": chance.integers(1, 20_000, count),
            "rating": chance.integers(1, 11, count) / 2,
            "timestamp": START + chance.integers(0, 10**8, count),
        }
    )


def write_database(rows: pl.DataFrame, path: Path) -> None:
    """The rows as a table of SQLite."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE ratings (user_id, item_id, rating, timestamp)")
        database.executemany("INSERT INTO ratings VALUES (?, ?, ?, ?)", rows.rows())


FORMATS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": lambda rows, path: rows.write_csv(path),
    "csv.gz": lambda rows, path: path.write_bytes(gzip.compress(rows.write_csv().encode())),
    "parquet": lambda rows, path: rows.write_parquet(path),
    "arrow": lambda rows, path: rows.write_ipc(path),
    "xlsx": lambda rows, path: rows.write_excel(path),
    "sqlite": write_database,
}


def time_openings(path: Path, rounds: int = 5) -> tuple[float, float]:
    """The least time in which the file is opened, the child's start included; and that of opening
    it once more in the same child."""
    first, second_times = [], []
    for _ in range(rounds):
        with temporary_folder() as folder, ConfinedReader() as reader:
            for times in (first, second_times):
                start_seconds = time.perf_counter()
                open_file(RawFile(path, path.name), "auto", folder, reader)
                times.append(time.perf_counter() - start_seconds)
    return min(first), min(second_times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "confined_reading.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = generate_rows(1000)
        small: list[dict[str, Any]] = []
        for form, write_file in FORMATS.items():
            write_file(rows, folder / f"small.{form}")
            seconds, second_seconds = time_openings(folder / f"small.{form}")
            small.append({"format": form, "seconds": seconds, "again": second_seconds})
        formatted_rows = [
            {"format": str(row["format"])} | {k: f"{row[k]:.3f}" for k in ("seconds", "again")}
            for row in small
        ]
        print(
            table(
                "1,000 rows: seconds to open the file, and again in the same child", formatted_rows
            )
        )
        large = folder / "large.parquet"
        generate_rows(arguments.rows).write_parquet(large)
        copying, _ = time_openings(large, rounds=1)
        start_seconds = time.perf_counter()
        with open_ratings([RawFile(large, large.name)], ReadSettings(), Rules()) as ratings:
            ratings.write_interactions(folder / "interactions.csv")
        preparing = time.perf_counter() - start_seconds
    print(
        f"{arguments.rows:,} rows of Parquet: {copying:.2f} s of {preparing:.2f} s to prepare them"
    )
    result = {"small": small, "rows": arguments.rows, "copying": copying, "preparing": preparing}
    write(arguments.out, result)


if __name__ == "__main__":
    main()
