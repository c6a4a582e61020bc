"""Time, memory and size of the recommendation report.

    python benchmarks/reporting.py [--size hetrec] [--size million] [--out reporting.json]

The input is generated: interactions, users, a list of 25 items for each, lists of similar items,
titles and genres, but no addresses of pictures, which the page has as they are. Times are wall and
CPU time of what the asset recommendation_report does, in its own process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from generated import Size, write_csv
from report import RESULTS, table, write

SIZES = {
    "hetrec": Size(490_000, 2_113, 10_055),
    "million": Size(20_000_000, 1_000_000, 100_000),
}
LIST, USERS_AT_ONCE = 25, 50_000
GENRES = 18


def generate(folder: Path, size: Size) -> None:
    """interactions.csv, users.json, and the other tables of a run as Parquet."""
    import polars as pl
    import pyarrow.parquet as pq

    write_csv(folder / "interactions.csv", size)
    chance = np.random.default_rng(0)
    ids = pl.Series("userId", np.arange(1, size.users + 1)).cast(pl.String)
    ids.to_frame().write_ndjson(folder / "users.json")
    items = pl.Series("item_id", np.arange(1, size.items + 1)).cast(pl.String)
    titles = pl.DataFrame({"item_id": items, "title": "The film of number " + items})
    titles.write_parquet(folder / "titles.parquet")
    genres = chance.integers(0, GENRES, (size.items, 2))
    kinds = [f"Genre {genre}|Genre {other}" for genre, other in genres.tolist()]
    pl.DataFrame({"ITEM_ID": items, "GENRES": kinds}).write_parquet(folder / "items.parquet")
    ranks = np.arange(1, LIST + 1)
    similar = (np.arange(size.items)[:, np.newaxis] + ranks) % size.items
    similar_items = {
        "item_id": np.repeat(items.to_numpy(), LIST),
        "rank": np.tile(ranks, size.items),
        "similar_item_id": items.gather(similar.ravel()),
    }
    pl.DataFrame(similar_items).write_parquet(folder / "similar_items.parquet")
    writer = None
    for start in range(0, size.users, USERS_AT_ONCE):
        count = min(USERS_AT_ONCE, size.users - start)
        # Different items each, the popular ones more often.
        first = (size.items * chance.random((count, 1)) ** 3).astype(np.int64)
        places = (first + np.arange(LIST) * chance.integers(1, 97, (count, 1))) % size.items
        lists = pl.DataFrame(
            {
                "user_id": np.repeat(ids.slice(start, count).to_numpy(), LIST),
                "rank": np.tile(np.arange(1, LIST + 1, dtype=np.int32), count),
                "item_id": items.gather(places.ravel()),
            }
        ).to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(folder / "recommendations.parquet", lists.schema)
        writer.write_table(lists)
    assert writer is not None
    writer.close()


def make(folder: Path) -> dict[str, float]:
    """Make the report in this process: seconds, bytes of the page, gigabytes at the most."""
    import polars as pl

    from batchrec_dagster.reporting.facts import ReportedRun, combine_facts, count_tallies
    from batchrec_dagster.reporting.page import render_page
    from batchrec_dagster.reporting.published import scan_interactions
    from batchrec_dagster.reporting.run_tables import RunTables

    metrics = {"normalized_discounted_cumulative_gain_at_25": 0.2, "coverage": 0.5}
    run = ReportedRun(
        pipeline="benchmark",
        description=None,
        source="generated",
        recipe="aws-user-personalization-v2",
        report_time=datetime.now(UTC),
        solution_version="arn:aws:personalize:us-east-1:000000000000:solution/benchmark/1",
        metrics=metrics,
        popularity=metrics,
    )
    begin = time.perf_counter()
    begin_cpu = time.process_time()
    tables = RunTables(
        interactions=scan_interactions(folder / "interactions.csv"),
        recommendations=pl.scan_parquet(folder / "recommendations.parquet"),
        users=pl.scan_ndjson(folder / "users.json"),
        titles=pl.read_parquet(folder / "titles.parquet"),
        items=pl.read_parquet(folder / "items.parquet"),
        categories=["GENRES"],
        similar_items=pl.scan_parquet(folder / "similar_items.parquet"),
    )
    html = render_page(combine_facts(run, count_tallies(tables)))
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - begin_cpu,
        "bytes": len(html.encode()),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measure_size(size: Size) -> dict[str, Any]:
    """Of files of this size."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), size)
        process = subprocess.run(
            [sys.executable, __file__, "--make", folder],
            capture_output=True,
            text=True,
            check=True,
        )
    facts: dict[str, Any] = json.loads(process.stdout)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=[*SIZES])
    parser.add_argument("--out", default="reporting.json")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        print(json.dumps(make(Path(arguments.make))))
        return
    results = {name: measure_size(SIZES[name]) for name in arguments.size or SIZES}
    rows = [
        {
            "report": name,
            "users": f"{SIZES[name].users:,}",
            "interactions": f"{SIZES[name].rows:,}",
            "seconds": f"{facts['seconds']:.1f}",
            "CPU seconds": f"{facts['cpu_seconds']:.1f}",
            "MB": f"{facts['bytes'] / 1e6:.2f}",
            "GB of memory": f"{facts['gigabytes']:.2f}",
        }
        for name, facts in results.items()
    ]
    print(table("The report, from the files of a run to its page", rows))
    write(RESULTS / arguments.out, results)


if __name__ == "__main__":
    main()
