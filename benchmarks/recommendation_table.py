"""Time and memory from batch inference output to the published table of recommendations.

    python benchmarks/recommendation_table.py [--users 1000000] [--results 25] [--rounds 1]
                                              [--interactions 20000000] [--out FILE]

The input is generated: `.out` files in Personalize's format, and the interactions with the seen
items. "ours" does the work of the asset recommendations after the job has finished: it reads the
users and the interactions, drops seen items, writes the table, computes every check and publishes
the table. The other contender makes the same table by Polars, reads each file whole, and has no
checks. Each contender runs in a separate process. The benchmark reports the wall time, the CPU time
of all threads, and the process's peak memory, all in the round with the shortest wall time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from report import RESULTS, ROOT, table, write

OURS, WHOLE = "ours, in pieces", "Polars, at once"
ITEMS, USERS_AT_ONCE, FILES = 100_000, 20_000, 8
TABLE = "recommendations.parquet"


def generate(folder: Path, users: int, results: int, interactions: int) -> None:
    """Write users.json, interactions.csv and FILES files under out/, with a line for each user."""
    import polars as pl

    (folder / "out").mkdir()
    chance = np.random.default_rng(0)
    popular = np.arange(1, ITEMS + 1) ** -0.8
    popular /= popular.sum()
    edges = np.linspace(0, users, FILES + 1).astype(int)
    items_per_user = max(1, interactions // users)
    with (
        (folder / "users.json").open("wb") as users_file,
        (folder / "interactions.csv").open("wb") as i,
    ):
        for number, (first, end) in enumerate(itertools.pairwise(edges)):
            with (folder / "out" / f"users_{number}.json.out").open("wb") as out:
                for start in range(first, end, USERS_AT_ONCE):
                    count = min(USERS_AT_ONCE, end - start)
                    ids = pl.Series("userId", np.arange(start, start + count) + 10**9)
                    ids = ids.cast(pl.String)
                    ids.to_frame().write_ndjson(users_file)
                    _generate_lines(ids, count, results, chance).write_ndjson(out)
                    seen_pairs = pl.DataFrame(
                        {
                            "USER_ID": np.repeat(ids.to_numpy(), items_per_user),
                            "ITEM_ID": chance.choice(ITEMS, count * items_per_user, p=popular),
                            "TIMESTAMP": chance.integers(
                                1_500_000_000, 1_700_000_000, count * items_per_user
                            ),
                        }
                    )
                    seen_pairs.write_csv(i, include_header=start == 0)


def _generate_lines(ids: Any, count: int, results: int, chance: np.random.Generator) -> Any:
    """Return a line of distinct items for each user, the best first, with some seen items."""
    import polars as pl

    begin = chance.integers(0, ITEMS, (count, 1))
    items = (begin + np.arange(results) * chance.integers(1, 97, (count, 1))) % ITEMS
    scores = -np.sort(-chance.random((count, results)).round(7), axis=1)
    width = pl.Series(items.ravel()).cast(pl.String).reshape((count, results)).arr.to_list()
    return pl.DataFrame({"u": ids, "i": width, "s": scores}).select(
        input=pl.struct(userId="u"),
        output=pl.struct(recommendedItems="i", scores=pl.col("s").arr.to_list()),
        error=pl.lit(None, dtype=pl.String),
    )


def declare_list(results: int, **settings: Any) -> Any:
    """Return the declaration of a pipeline's list for users.

    settings: further keys of `recommendations`.
    """
    from batchrec_dagster.config import Pipeline

    recommendations = {"num_results": results, **settings}
    ratings = {"source": "ratings.csv"}
    declared = {"name": "shop", "ratings": ratings, "recommendations": recommendations}
    return Pipeline.model_validate(declared).user_lists[0]


def check(published: Any, table: Any, users: Any, results: int) -> list[Any]:
    """Return the findings about the written table."""
    from batchrec_dagster.steps.lists.checks import check_table

    resources = SimpleNamespace(max_results=500)
    step: Any = SimpleNamespace(pipeline=published.pipeline, resources=resources)
    return check_table(step, published, users, table, results)


# --- the contenders: from the folder to a table under storage/ ---


def run_product(folder: Path, results: int) -> dict[str, Any]:
    """Do the asset's work, and return the figures."""
    from batchrec_dagster.editions.editions import Editions
    from batchrec_dagster.editions.list_file import ListWriter
    from batchrec_dagster.pipeline.io_managers import InteractionsIOManager, UsersIOManager
    from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
    from batchrec_dagster.steps.lists.counts import CountedItems, count_audience, count_histories
    from batchrec_dagster.steps.lists.inputs import ListInputs
    from batchrec_dagster.steps.lists.job_output import JobOutput
    from batchrec_dagster.steps.lists.rows import RowBuilder
    from batchrec_dagster.steps.lists.rules import prepare_rules
    from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition

    start_seconds = time.perf_counter()
    resource = StorageResource(root=str(folder), s3=S3ConnectionResource())
    storage = resource.opened
    users_io = UsersIOManager(storage=resource)
    requested_users = users_io.open_table(storage.uri("users.json"))
    users = requested_users.select("userId").collect(engine="streaming").get_column("userId")
    csv = InteractionsIOManager(storage=resource)
    interactions = csv.open_table(storage.uri("interactions.csv"))
    histories = count_histories(interactions)
    items_had = histories.items.get_column("item")
    inputs = ListInputs(results, users, interactions, items_had, 0, date(2026, 1, 1))
    published = declare_list(results)
    lists = RowBuilder(published, inputs, prepare_rules(published, inputs), None)
    job = {"jobOutput": {"s3DataDestination": {"path": storage.uri("out/")}}}
    table = Editions(
        storage.store, storage.uri(f"storage/lists/{TABLE}"), storage.uri("editions.json")
    )
    with tempfile.TemporaryDirectory() as passing, ListWriter(Path(passing) / TABLE) as writer:
        lists.write(JobOutput(storage, job).lines(), writer)
        checks = check(published, lists, users, results)
        facts = {"number": table.next_number(), "version": str(time.time_ns())}
        figures = count_audience(users, histories)
        figures |= CountedItems(lists.listed, histories).describe()
        counts = lists.counts.model_copy(update=figures)
        writer.finish(make_edition({**facts, "counts": counts, "data": histories.describe(None)}))
        table.publish(writer.path, 1, ALONE)
    failed_checks = [
        finding.name for finding in checks if not finding.passed and finding.name != "lists_full"
    ]
    return {
        "seconds": time.perf_counter() - start_seconds,
        "rows": lists.counts.rows,
        "failed": failed_checks,
    }


def build_at_once(folder: Path, results: int) -> dict[str, Any]:
    """Make the table in memory, without checks."""
    import polars as pl

    from batchrec_dagster.personalize.formats import read_output_lines

    start_seconds = time.perf_counter()
    text = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    seen_pairs = pl.read_csv(folder / "interactions.csv", schema_overrides=text).select(
        user_id="USER_ID", item_id="ITEM_ID"
    )
    files = sorted((folder / "out").iterdir())
    lists = (
        pl.concat(read_output_lines(file.read_bytes()) for file in files)
        .select(user_id="subject", item_id="members", score="scores")
        .explode("item_id", "score")
        .join(seen_pairs.unique(), on=["user_id", "item_id"], how="anti", maintain_order="left")
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .filter(pl.col("rank") <= results)
    )
    (folder / "storage").mkdir(exist_ok=True)
    lists.write_parquet(folder / "storage" / TABLE)
    return {"seconds": time.perf_counter() - start_seconds, "rows": lists.height, "failed": []}


WORKS: dict[str, Callable[[Path, int], dict[str, Any]]] = {OURS: run_product, WHOLE: build_at_once}


def run_alone(name: str, folder: Path, results: int) -> dict[str, Any]:
    """Return the figures of a separate process, with its peak memory; NaN if it fails."""
    command = [sys.executable, __file__, "--work", name, "--folder", str(folder)]
    # The process imports the tests' helper that makes the edition.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [*command, "--results", str(results)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    if process.returncode:
        print(process.stderr, file=sys.stderr)
        return {"seconds": float("nan"), "peak_mb": float("nan"), "why": process.stderr[-500:]}
    facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return facts


def measure(arguments: argparse.Namespace) -> None:
    """Generate the input, run the contenders in turn, and print the figures."""
    names = [OURS] if arguments.only_ours else list(WORKS)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        generate(folder, arguments.users, arguments.results, arguments.interactions)
        size = sum(file.stat().st_size for file in (folder / "out").iterdir()) / 1e6
        results = {
            name: min(
                (run_alone(name, folder, arguments.results) for _ in range(arguments.rounds)),
                key=lambda facts: facts["seconds"],
            )
            for name in names
        }
    rows = [
        {
            "way": name,
            "seconds": f"{facts['seconds']:.1f}",
            "CPU s": f"{facts.get('cpu_seconds', 0):.1f}",
            "peak MB": f"{facts['peak_mb']:.0f}",
            "rows": f"{facts.get('rows', 0):,}",
        }
        for name, facts in results.items()
    ]
    title = (
        f"\n{arguments.users:,} users x {arguments.results}, {size:,.0f} MB in {FILES} files;"
        f" {arguments.interactions:,} interactions"
    )
    print(table(title, rows), flush=True)
    facts = {
        "users": arguments.users,
        "results": arguments.results,
        "interactions": arguments.interactions,
    }
    write(arguments.out, {**facts, "out_megabytes": size, "ways": results})


def main() -> None:
    """Measure all contenders or, in a separate process, run a single contender."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=25)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where the generated files pass through")
    parser.add_argument("--out", type=Path, default=RESULTS / "recommendation_table.json")
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        before = time.process_time()
        facts = WORKS[arguments.work](arguments.folder, arguments.results)
        facts["cpu_seconds"] = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**facts, "peak_mb": peak}))
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
