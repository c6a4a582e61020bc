"""Time and memory to write the table of recommendations to PostgreSQL and to export files.

    python benchmarks/sinks.py [--users 1000000] [--results 25] [--url postgresql://…]
                               [--out sinks.json]

The input is a generated table of recommendations with titles. It is written to PostgreSQL twice,
which creates and then replaces the table, and to the export's files. Without --url a local
PostgreSQL is started with its defaults. Each write runs in its own process; wall time, CPU time and
peak memory are the client's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from report import RESULTS, ROOT, table, write

ITEMS, USERS_AT_ONCE = 100_000, 20_000


def generate(path: Path, users: int, results: int) -> None:
    """user_id, rank, item_id, title, score: a list of so many results for each user."""
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    chance = np.random.default_rng(0)
    writer: pq.ParquetWriter | None = None
    for start in range(0, users, USERS_AT_ONCE):
        count = min(USERS_AT_ONCE, users - start)
        begin = chance.integers(0, ITEMS, (count, 1))
        items = (begin + np.arange(results) * chance.integers(1, 97, (count, 1))) % ITEMS
        rows = pl.DataFrame(
            {
                # Ids in no order, as the users of the interactions come.
                "user_id": np.repeat(np.arange(start, start + count) * 7_919 % 10**9, results),
                "rank": np.tile(np.arange(1, results + 1, dtype=np.int32), count),
                "item_id": items.ravel(),
                "score": -np.sort(-chance.random((count, results)), axis=1).ravel(),
            }
        ).select(
            pl.col("user_id").cast(pl.String),
            "rank",
            pl.col("item_id").cast(pl.String),
            title=pl.format("The Film of Number {} (1999)", "item_id"),
            score="score",
        )
        arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(path, arrow.schema, compression="zstd")
        writer.write_table(arrow)
    if writer is not None:
        writer.close()


def write_postgres(lists: Path, url: str) -> dict[str, Any]:
    """As the asset does."""
    import polars as pl

    from batchrec_dagster.sinks.postgres_table import PostgresTarget, replace_lists

    counts = replace_lists(pl.scan_parquet(lists), PostgresTarget(url, "batchrec_benchmark"))
    return {"rows": counts.counts.rows}


def write_file(lists: Path, **options: Any) -> dict[str, Any]:
    """As the asset does, into the folder of the lists."""
    import polars as pl

    from batchrec_dagster.sinks.export import ExportSink, write_export
    from batchrec_dagster.storage.object_store import ObjectStore

    store = ObjectStore({"here": lists.parent})
    result = write_export(pl.scan_parquet(lists), ExportSink(**options), store, "s3://here/export")
    return {"rows": result.counts.rows}


WORKS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "PostgreSQL, new": write_postgres,
    "PostgreSQL, replaced": write_postgres,
    "CSV, a row for each user": lambda lists, _: write_file(lists),
    "CSV, a row for each item": lambda lists, _: write_file(lists, rows="per_item"),
    "JSON Lines, a line for each user": lambda lists, _: write_file(lists, format="jsonl"),
}


def run_alone(name: str, lists: Path, url: str) -> dict[str, Any]:
    """What a process of its own reports."""
    process = subprocess.run(
        [sys.executable, __file__, "--work", name, "--lists", str(lists), "--url", url],
        check=True,
        capture_output=True,
        text=True,
    )
    facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return facts


def measure(arguments: argparse.Namespace) -> None:
    """Generate, write each in turn, tell."""
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(_start_postgres()).url()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.scratch)))
        lists = folder / "recommendations.parquet"
        generate(lists, arguments.users, arguments.results)
        size = lists.stat().st_size / 1e6
        results = {name: run_alone(name, lists, url) for name in WORKS}
    rows = [
        {
            "sink": name,
            "seconds": f"{facts['seconds']:.1f}",
            "CPU s": f"{facts['cpu_seconds']:.1f}",
            "peak MB": f"{facts['peak_mb']:.0f}",
            "rows": f"{facts['rows']:,}",
        }
        for name, facts in results.items()
    ]
    print(
        table(f"\n{arguments.users:,} users x {arguments.results}, {size:,.0f} MB of Parquet", rows)
    )
    write(arguments.out, {"users": arguments.users, "results": arguments.results, "sinks": results})


def _start_postgres() -> Any:
    """The PostgreSQL that the tests start, but one that loses nothing."""
    sys.path.append(str(ROOT))
    from batchrec_dagster_tests.postgres_server import postgres_server

    return postgres_server(fsync=True)


def main() -> None:
    """Measure, or be one of those who are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=25)
    parser.add_argument("--url", help="a PostgreSQL; its table batchrec_benchmark is replaced")
    parser.add_argument("--scratch", type=Path, help="where the generated files pass through")
    parser.add_argument("--out", type=Path, default=RESULTS / "sinks.json")
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--lists", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        start_seconds = time.perf_counter()
        before = time.process_time()
        facts = WORKS[arguments.work](arguments.lists, arguments.url)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        took = {
            "seconds": time.perf_counter() - start_seconds,
            "cpu_seconds": time.process_time() - before,
        }
        print(json.dumps({**facts, **took, "peak_mb": peak}))
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
