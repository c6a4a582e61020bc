"""Time, memory and size of the page about the published lists.

    python benchmarks/page.py [--users 1000000] [--results 25] [--interactions 20000000]
                              [--out FILE]

The input is generated: two editions of lists with titled items, and the interactions behind the
lists. The benchmark does the work of the asset recommendation_report, except for reading small
records: it compares the editions, reads and explains the lists of some users, and writes the page.
The work runs in a separate process. The benchmark reports the wall time, the CPU time of all
threads, the process's peak memory, and the size of the page.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from report import RESULTS, ROOT, table, write

ITEMS, USERS_AT_ONCE = 100_000, 50_000
EDITIONS = ("before", "now")


def generate(folder: Path, users: int, results: int, interactions: int) -> None:
    """Write before.parquet, now.parquet, titles.parquet and interactions.csv."""
    import polars as pl
    import pyarrow.parquet as pq

    chance = np.random.default_rng(0)
    popular = np.arange(1, ITEMS + 1) ** -0.8
    popular /= popular.sum()
    ids = pl.Series(np.arange(ITEMS)).cast(pl.String)
    titles = pl.DataFrame({"item_id": ids, "title": "The film with the number " + ids})
    titles.write_parquet(folder / "titles.parquet")
    writers: dict[str, Any] = {}
    for start in range(0, users, USERS_AT_ONCE):
        count = min(USERS_AT_ONCE, users - start)
        user_ids = pl.Series(np.arange(start, start + count) + 10**9).cast(pl.String)
        begins = chance.integers(0, ITEMS, (count, 1))
        steps = chance.integers(1, 97, (count, 1))
        for number, name in enumerate(EDITIONS):
            # Half of every list stays.
            items = (begins + (np.arange(results) + number * results // 2) * steps) % ITEMS
            lists = pl.DataFrame(
                {
                    "user_id": np.repeat(user_ids.to_numpy(), results),
                    "rank": np.tile(np.arange(1, results + 1, dtype=np.int32), count),
                    "item_id": ids.gather(items.ravel()),
                    "score": np.float32(0.5),
                    "title": titles["title"].gather(items.ravel()),
                }
            ).to_arrow(compat_level=pl.CompatLevel.oldest())
            if name not in writers:
                writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", lists.schema)
            writers[name].write_table(lists)
        per_user = max(1, interactions // users)
        had = pl.DataFrame(
            {
                "USER_ID": np.repeat(user_ids.to_numpy(), per_user),
                "ITEM_ID": chance.choice(ITEMS, count * per_user, p=popular),
                "TIMESTAMP": chance.integers(1_500_000_000, 1_700_000_000, count * per_user),
            }
        )
        with (folder / "interactions.csv").open("ab") as file:
            had.write_csv(file, include_header=start == 0)
    for writer in writers.values():
        writer.close()


def make_page(folder: Path, users: int) -> dict[str, Any]:
    """Make the page, and return the time and the page's size."""
    import polars as pl

    from batchrec_dagster.personalize.formats import scan_interactions
    from batchrec_dagster.reporting.insight.changes import compare_editions
    from batchrec_dagster.reporting.insight.explanations import PastInteractions
    from batchrec_dagster.reporting.insight.page import Page
    from batchrec_dagster.reporting.insight.people import PeopleTables, collect_people
    from batchrec_dagster.reporting.views.html import render_html
    from batchrec_dagster_tests.guard.seams.editions import make_edition

    start_seconds, start_cpu = time.perf_counter(), time.process_time()
    before, now = (pl.scan_parquet(folder / f"{name}.parquet") for name in EDITIONS)
    editions = [make_edition({"number": number, "version": str(number)}) for number in (1, 2)]
    changes = compare_editions((editions[0], before), (editions[1], now))
    interactions = scan_interactions(folder / "interactions.csv")
    titles = pl.scan_parquet(folder / "titles.parquet")
    people = collect_people(PeopleTables(now, PastInteractions(interactions, users), titles))
    page = Page(
        address="shop",
        made_at=datetime.now(UTC),
        edition=editions[1],
        findings=(),
        nights=(),
        changes=changes,
        people=people,
    )
    html = render_html(page)
    return {
        "seconds": time.perf_counter() - start_seconds,
        "cpu_seconds": time.process_time() - start_cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "kilobytes": len(html.encode()) / 1000,
        "people": len(people.people),
    }


def measure(arguments: argparse.Namespace) -> None:
    """Generate the input, make the page in a separate process, and print the figures."""
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        generate(folder, arguments.users, arguments.results, arguments.interactions)
        command = [sys.executable, __file__, "--folder", str(folder)]
        # PYTHONPATH is set because the process imports a helper of the tests, make_edition.
        process = subprocess.run(
            [*command, "--users", str(arguments.users)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    row = {
        "users": f"{arguments.users:,}",
        "seconds": f"{facts['seconds']:.1f}",
        "CPU s": f"{facts['cpu_seconds']:.1f}",
        "peak MB": f"{facts['peak_mb']:.0f}",
        "page kB": f"{facts['kilobytes']:.0f}",
    }
    title = f"\n{arguments.results} items each, {arguments.interactions:,} interactions"
    print(table(title, [row]), flush=True)
    size = {"results": arguments.results, "interactions": arguments.interactions}
    write(arguments.out, {"users": arguments.users, **size, **facts})


def main() -> None:
    """Measure or, in a separate process, do the measured work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=25)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--scratch", type=Path, help="where the generated files pass through")
    parser.add_argument("--out", type=Path, default=RESULTS / "page.json")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(make_page(arguments.folder, arguments.users)))
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
