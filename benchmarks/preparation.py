"""Time and memory to prepare ratings, compared with scripts written by hand.

    python benchmarks/preparation.py [--rows 10000000] [--rounds 5] [--out preparation.json]

All contenders do the same work on the same file: keep ids as text and ratings of at least 3.5,
write interactions.csv for Amazon Personalize and users.json with the distinct users in order, and
count the rows read and kept. batchrec also checks every row for errors. Each contender runs in a
separate process. Time is the median of the rounds, without imports and the start of Spark. Memory
is the process's peak, the highest of all rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OURS, POLARS, PANDAS, SPARK = "ours", "polars by hand", "pandas", "local Spark"
MIN_RATING = 3.5
CHUNK = 1_000_000

Work = Callable[[Path, Path], tuple[int, int]]


def generate(path: Path, rows: int) -> None:
    """Write a CSV file of ratings that are as skewed as real ratings, in pieces."""
    import polars as pl

    chance = np.random.default_rng(0)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            users = chance.lognormal(0, 1, count) * rows / 300
            frame = pl.DataFrame(
                {
                    "userId": users.astype(np.int64) + 1,
                    "movieId": chance.zipf(1.2, count) % 60_000 + 1,
                    "rating": chance.integers(1, 11, count) / 2,
                    "timestamp": chance.integers(1_100_000_000, 1_700_000_000, count),
                }
            )
            frame.write_csv(file, include_header=False)
    part.replace(path)


# --- the contenders: from the file to interactions.csv and users.json in the folder ---


def prepare_by_product(source: Path, folder: Path) -> tuple[int, int]:
    """Prepare like the assets interactions and batch_users."""
    import polars as pl

    from batchrec_dagster.personalize.formats import choose_csv_types
    from batchrec_dagster.personalize.schemas import make_interactions_schema
    from batchrec_dagster.preparation.file_form import Columns, FileForm
    from batchrec_dagster.preparation.id_lists import list_distinct_users
    from batchrec_dagster.preparation.polars.decoding import RawFile
    from batchrec_dagster.preparation.polars.prepare import open_ratings
    from batchrec_dagster.preparation.row_rules import RowRules

    target = folder / "interactions.csv"
    with open_ratings(
        [RawFile(source, source.name)], FileForm(), Columns(), RowRules(min_rating=MIN_RATING)
    ) as ratings:
        result = ratings.write_interactions(target)
    types = choose_csv_types(make_interactions_schema(event_type=False).columns)
    users = list_distinct_users(pl.scan_csv(target, schema=types))
    users.write_ndjson(folder / "users.json")
    return result.rows_read, result.rows_kept


def prepare_by_hand(source: Path, folder: Path) -> tuple[int, int]:
    """Prepare by Polars, lazily and streaming, as its documentation recommends."""
    import polars as pl

    text = {"userId": pl.String, "movieId": pl.String}
    target = folder / "interactions.csv"
    ratings = pl.scan_csv(source, schema_overrides=text)
    ratings.filter(pl.col("rating") >= MIN_RATING).select(
        USER_ID="userId", ITEM_ID="movieId", TIMESTAMP="timestamp"
    ).sink_csv(target)
    interactions = pl.scan_csv(target, schema_overrides={"USER_ID": pl.String})
    interactions.select(userId="USER_ID").unique().sort("userId").sink_ndjson(folder / "users.json")
    read, kept = (
        frame.select(pl.len()).collect(engine="streaming").item()
        for frame in (ratings, interactions)
    )
    return read, kept


def prepare_with_pandas(source: Path, folder: Path) -> tuple[int, int]:
    """Prepare by pandas with its faster reader."""
    import pandas as pd

    text = {"userId": "string[pyarrow]", "movieId": "string[pyarrow]"}
    ratings = pd.read_csv(source, dtype=text, engine="pyarrow")
    ratings_kept = ratings[ratings["rating"] >= MIN_RATING]
    ratings_kept = ratings_kept[["userId", "movieId", "timestamp"]]
    ratings_kept.columns = pd.Index(["USER_ID", "ITEM_ID", "TIMESTAMP"])
    ratings_kept.to_csv(folder / "interactions.csv", index=False)
    users = ratings_kept[["USER_ID"]].drop_duplicates().sort_values("USER_ID")
    users.columns = pd.Index(["userId"])
    users.to_json(folder / "users.json", orient="records", lines=True)
    return len(ratings), len(ratings_kept)


def prepare_with_spark(source: Path, folder: Path) -> tuple[int, int]:
    """Prepare by Spark on all cores of this machine; Spark writes folders of parts."""
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.sql.shuffle.partitions", "8")
        .getOrCreate()
    )
    start.append(time.perf_counter())
    schema = "userId string, movieId string, rating double, timestamp long"
    ratings = spark.read.csv(str(source), schema=schema, header=True)
    ratings_kept = ratings.where(f.col("rating") >= MIN_RATING).select(
        f.col("userId").alias("USER_ID"),
        f.col("movieId").alias("ITEM_ID"),
        f.col("timestamp").alias("TIMESTAMP"),
    )
    ratings_kept.write.csv(str(folder / "interactions.csv"), header=True)
    interactions = spark.read.csv(str(folder / "interactions.csv"), header=True)
    users = interactions.select(f.col("USER_ID").alias("userId")).distinct().sort("userId")
    users.write.json(str(folder / "users.json"))
    return ratings.count(), interactions.count()


CONTENDERS: dict[str, Work] = {
    OURS: prepare_by_product,
    POLARS: prepare_by_hand,
    PANDAS: prepare_with_pandas,
    SPARK: prepare_with_spark,
}
# The times at which the work begins. The start of Spark's session comes before, and does not count.
start: list[float] = []


def run_child(name: str, source: Path) -> None:
    """Do the work once and print the time and memory."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        for module in ("polars", "pandas") if name != SPARK else ():
            importlib.import_module(module)
        if name == OURS:
            importlib.import_module("batchrec_dagster.preparation.polars.prepare")
        start.append(time.perf_counter())
        imports = measure_cpu_seconds()
        read, rows_kept = CONTENDERS[name](source, Path(folder))
        seconds, cpu_used = time.perf_counter() - start[-1], measure_cpu_seconds() - imports
        target = Path(folder) / "interactions.csv"
        size = sum(path.stat().st_size for path in [target, *target.rglob("*.csv")])
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_used,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
                "rows_read": read,
                "rows_kept": rows_kept,
                "bytes_written": size,
            }
        )
    )


def measure_cpu_seconds() -> float:
    """Return this process's CPU time up to now, without Spark, which is in another process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(name: str, source: Path) -> dict[str, Any]:
    """Run a contender once in a separate process, and return its figures."""
    command = [sys.executable, __file__, "--child", name, "--source", str(source)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{process.stderr}")
    measurement: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return measurement


def compare(source: Path, rounds: int, names_chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each contender's median times and highest peak memory, compared with ours.

    In each round the contenders take turns, so that other load slows all of them alike.
    """
    names = [name for name in CONTENDERS if name in names_chosen]
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        names = [name for name in names if name != SPARK]
    measurements: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            measurements[name].append(measure(name, source))
    rows_kept = {took["rows_kept"] for rows in measurements.values() for took in rows}
    if len(rows_kept) > 1:
        raise SystemExit(f"they do not keep the same rows: {measurements}")
    middle = {
        name: {
            **rows[0],
            **{key: median(took[key] for took in rows) for key in ("seconds", "cpu_seconds")},
            "peak_mb": max(took["peak_mb"] for took in rows),
        }
        for name, rows in measurements.items()
    }
    for name, row in middle.items():
        if OURS in middle:
            row["ours_times_as_fast"] = row["seconds"] / middle[OURS]["seconds"]
            if name != SPARK:  # Spark works in another process.
                cpu_factor = row["cpu_seconds"] / middle[OURS]["cpu_seconds"]
                row["ours_times_as_fast_by_cpu"] = cpu_factor
    return middle


def format_results(rows: int, middle: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table."""
    lines = [
        f"\n{rows:,} rows, {next(iter(middle.values()))['rows_kept']:,} kept",
        f"{'':18}{'seconds':>9}{'CPU s':>8}{'peak MB':>9}{'rows/s':>13}{'ours is':>10}"
        f"{'by CPU':>10}",
    ]
    for name, row in middle.items():
        factors = [row.get(f"ours_times_as_fast{suffix}") for suffix in ("", "_by_cpu")]
        times = "".join(f"{factor:8.2f} x" for factor in factors if factor is not None)
        lines.append(
            f"{name:18}{row['seconds']:9.2f}{row['cpu_seconds']:8.2f}{row['peak_mb']:9.0f}"
            f"{rows / row['seconds']:13,.0f}{times}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(CONTENDERS), nargs="+", default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, default=ROOT / ".batchrec/benchmarks/preparation.json")
    parser.add_argument("--child", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(arguments.child, arguments.source)
        return
    source = ROOT / f".batchrec/benchmarks/ratings-{arguments.rows}.csv"
    source.parent.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        generate(source, arguments.rows)
    middle = compare(source, arguments.rounds, arguments.only)
    print(format_results(arguments.rows, middle))
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"machine": machine, "rows": arguments.rows, "contenders": middle}, indent=1)
        + os.linesep
    )
    print(f"\nwritten: {arguments.out}")


if __name__ == "__main__":
    main()
