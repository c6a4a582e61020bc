"""Time and memory of the reasons of lists, against the same table without them.

    python benchmarks/list_reasons.py [--users 1000000] [--results 25] [--interactions 20000000]
                                      [--rounds 1] [--out FILE]

The input is generated as in recommendation_table.py. "without" makes the table and leaves out what
is seen; "with reasons" also says why each item is there, by the histories of all users. Each runs
in its own process. Reported are the wall time (best of the rounds), the CPU time of all threads,
and the process's peak memory, also as ratios to "without".
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recommendation_table import generate
from report import RESULTS, table, write

WITHOUT, WITH_REASONS = "without", "with reasons"


def make_table(name: str, folder: Path, results: int) -> dict[str, Any]:
    """What the asset does from the job's output to the published table."""
    import polars as pl

    from batchrec_dagster.explanations.list_reasons import RESULTS_AT_ONCE, ListReasons
    from batchrec_dagster.personalize.file_formats import read_inference, scan_interactions
    from batchrec_dagster.steps.batch_jobs import JobOutput
    from batchrec_dagster.steps.list_builder import ListBuilder, ListInputs
    from batchrec_dagster.steps.list_reasons import RowReasons, merge_pieces
    from batchrec_dagster.steps.seen_items import SeenItems
    from batchrec_dagster.storage.published_table import TableWriter
    from batchrec_dagster.storage.resource import S3Connection, StorageResource

    start = time.perf_counter()
    storage = StorageResource(root=str(folder), s3=S3Connection())
    users = pl.read_ndjson(folder / "users.json").get_column("userId")
    interactions = scan_interactions(folder / "interactions.csv")
    reasons = None
    if name == WITH_REASONS:
        reasons = RowReasons(ListReasons(interactions, users), all_popular=False)
    prepare_seconds = time.perf_counter() - start
    seen = SeenItems(interactions, users)
    columns = [] if reasons is None else ["reason", "reason_item"]
    lists = ListBuilder(ListInputs(results, seen, columns=columns, reasons=reasons))
    job = {"jobOutput": {"s3DataDestination": {"path": storage.uri("out/")}}}
    with tempfile.TemporaryDirectory() as passing, TableWriter(Path(passing) / "t") as writer:
        pieces = JobOutput(storage, job).pieces(read_inference)
        if reasons is not None:
            pieces = merge_pieces(pieces, RESULTS_AT_ONCE)
        lists.write(pieces, writer)
        lists.checks(users, filtered=False)
        writer.finish({"edition": 1, "version": "1"})
    return {
        "seconds": time.perf_counter() - start,
        "prepare_seconds": prepare_seconds,
        "rows": lists.rows,
        "reasons": {} if reasons is None else dict(reasons.counts),
    }


def run_alone(name: str, folder: Path, results: int) -> dict[str, Any]:
    """What a process of its own reports, and its peak in memory."""
    command = [sys.executable, __file__, "--work", name, "--folder", str(folder)]
    process = subprocess.run(
        [*command, "--results", str(results)], check=True, capture_output=True, text=True
    )
    facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return facts


def measure(arguments: argparse.Namespace) -> None:
    """Generate the input, run each in turn, tell."""
    outcomes: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        generate(folder, arguments.users, arguments.results, arguments.interactions)
        for name in (WITHOUT, WITH_REASONS):
            runs = [run_alone(name, folder, arguments.results) for _ in range(arguments.rounds)]
            outcomes[name] = min(runs, key=lambda facts: facts["seconds"])
    base = outcomes[WITHOUT]
    rows = [
        {
            "lists": name,
            "seconds": f"{facts['seconds']:.1f}",
            "of them before": f"{facts['prepare_seconds']:.1f}",
            "CPU s": f"{facts['cpu_seconds']:.1f}",
            "peak MB": f"{facts['peak_mb']:.0f}",
            "time": f"x {facts['seconds'] / base['seconds']:.2f}",
            "memory": f"x {facts['peak_mb'] / base['peak_mb']:.2f}",
        }
        for name, facts in outcomes.items()
    ]
    title = (
        f"\n{arguments.users:,} users x {arguments.results};"
        f" {arguments.interactions:,} interactions"
    )
    print(table(title, rows), flush=True)
    write(arguments.out, {**vars(arguments), "lists": outcomes, "out": "", "scratch": ""})


def main() -> None:
    """Measure, or be one of those who are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=25)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where the generated files pass through")
    parser.add_argument("--out", type=Path, default=RESULTS / "list_reasons.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        before = time.process_time()
        facts = make_table(arguments.work, arguments.folder, arguments.results)
        facts["cpu_seconds"] = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**facts, "peak_mb": peak}))
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
