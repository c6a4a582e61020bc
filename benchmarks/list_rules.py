"""Time and memory of a table of lists with all rules, compared with the table without rules.

    python benchmarks/list_rules.py [--users 1000000] [--results 25] [--interactions 20000000]
                                    [--rounds 1] [--out FILE]

The input is generated as in recommendation_table.py, with a file of items that have a category, a
price, a stock and an age. "without" makes the table from lists of `--results` items, and leaves out
seen items. "all rules" makes the table from `--longer` results, by default three times as many,
like the default of `candidates`, but at most 500. "without, as long" is "without" from `--longer`
results, which shows the cost of the longer lists alone. Each variant runs in a separate process. A
round runs all variants in turn, so that a busy machine slows all of them. The benchmark reports the
wall time, the CPU time of all threads and the process's peak memory: the minimum of the rounds, and
its ratio to the minimum of "without".
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
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from recommendation_table import ITEMS, check, declare_list, generate
from report import RESULTS, ROOT, table, write

WITHOUT, WITHOUT_AS_LONG, WITH_RULES = "without", "without, as long", "all rules"
NOW = 1_700_000_000
SEEN = {"days": 2000, "except": 'ITEMS.CATEGORY = "c7"'}
DECLARED: dict[str, Any] = {
    "block": {"source": "blocked.csv"},
    "only": "ITEMS.STOCK > 0",
    "price": {"of": "PRICE", "within": [0.2, 5.0]},
    "max_per": {"CATEGORY": 3},
    "pin": [
        {"item": "11", "rank": 1},
        {"item": "12", "rank": 7},
        {"only": "ITEMS.AGE_DAYS < 100", "rank": 4},
    ],
}


def generate_items(folder: Path) -> None:
    """Write items.parquet with the columns that the rules use."""
    import polars as pl

    chance = np.random.default_rng(1)
    categories = pl.Series(chance.integers(0, 200, ITEMS)).cast(pl.String)
    pl.DataFrame(
        {
            "ITEM_ID": pl.Series(np.arange(ITEMS)).cast(pl.String),
            "CREATION_TIMESTAMP": NOW - chance.integers(0, 1000, ITEMS) * 86_400,
            "CATEGORY": "c" + categories,
            "PRICE": np.exp(chance.normal(3, 0.7, ITEMS)).round(2),
            "STOCK": chance.integers(0, 10, ITEMS).astype(float),
        }
    ).write_parquet(folder / "items.parquet")


def prepare(
    folder: Path, results: int, users: Any, interactions: Any, *, has_rules: bool
) -> tuple[Any, Any]:
    """Return the prepared rules and their inputs; without rules, only seen items are left out."""
    import polars as pl

    from batchrec_dagster.config.rules import ExcludeSeen, RuleSettings
    from batchrec_dagster.steps.data.popular_items import PopularItems, count_popular_items
    from batchrec_dagster.steps.lists.counts import count_histories
    from batchrec_dagster.steps.lists.inputs import ListInputs
    from batchrec_dagster.steps.lists.rules import Rules

    items_had = count_histories(interactions).items.get_column("item")
    if not has_rules:
        inputs = ListInputs(results, users, interactions, items_had, NOW, date(2026, 1, 1))
        return Rules(RuleSettings(), ExcludeSeen(), inputs), inputs
    rules = RuleSettings.model_validate(DECLARED)
    popular = count_popular_items(interactions, 30, {})
    inputs = ListInputs(
        num_results=results,
        subject_ids=users,
        interactions=interactions,
        items_had=items_had,
        data_until=NOW,
        today=date(2026, 1, 1),
        items=pl.read_parquet(folder / "items.parquet"),
        popular=PopularItems(popular.get_column("ITEM_ID"), days=30),
        blocked=pl.Series(range(0, ITEMS, 500)).cast(pl.String),
        pinned=[pin.item for pin in rules.pin if pin.item is not None],
    )
    return Rules(rules, ExcludeSeen.model_validate(SEEN), inputs), inputs


def make_table(name: str, folder: Path, results: int) -> dict[str, Any]:
    """Do the asset's work from the job's output to the published table, and return the figures."""
    import polars as pl

    from batchrec_dagster.editions.list_file import ListWriter
    from batchrec_dagster.personalize.formats import scan_interactions
    from batchrec_dagster.steps.lists.job_output import JobOutput
    from batchrec_dagster.steps.lists.rows import RowBuilder
    from batchrec_dagster.storage.connection import S3Connection, Storage
    from batchrec_dagster_tests.guard.seams.editions import make_edition

    start = time.perf_counter()
    storage = Storage(root=str(folder), s3=S3Connection())
    users = pl.read_ndjson(folder / "users.json").get_column("userId")
    interactions = scan_interactions(folder / "interactions.csv")
    has_rules = name == WITH_RULES
    rules, inputs = prepare(folder, results, users, interactions, has_rules=has_rules)
    prepared = time.perf_counter()
    published = declare_list(results, **({"rules": {"max_per": {}}} if has_rules else {}))
    lists = RowBuilder(published, inputs, rules, None)
    job = {"jobOutput": {"s3DataDestination": {"path": storage.uri("out/")}}}
    with tempfile.TemporaryDirectory() as passing, ListWriter(Path(passing) / "t") as writer:
        lists.write(JobOutput(storage, job).lines(), writer)
        check(published, lists, users, results)
        writer.finish(make_edition({}))
    facts = {
        "seconds": time.perf_counter() - start,
        "prepare_seconds": prepared - start,
        "rows": lists.counts.rows,
    }
    if has_rules:
        facts["short"] = rules.filled.short_of_model
    return facts


def run_alone(name: str, folder: Path, results: int) -> dict[str, Any]:
    """Return the figures of a separate process, with its peak memory."""
    command = [sys.executable, __file__, "--work", name, "--folder", str(folder)]
    # The process imports the tests' helper that makes the edition.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [*command, "--results", str(results)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return facts


def measure(arguments: argparse.Namespace) -> None:
    """Generate lists of the two lengths, run all variants in turn, and print the figures."""
    rounds: dict[str, list[dict[str, Any]]] = {WITHOUT: [], WITHOUT_AS_LONG: [], WITH_RULES: []}
    with (
        tempfile.TemporaryDirectory(dir=arguments.scratch) as of_short,
        tempfile.TemporaryDirectory(dir=arguments.scratch) as of_long,
    ):
        short, long = Path(of_short), Path(of_long)
        generate(short, arguments.users, arguments.results, arguments.interactions)
        generate_items(short)
        longer = arguments.longer or min(500, 3 * arguments.results)
        generate(long, arguments.users, longer, arguments.interactions)
        generate_items(long)
        for _ in range(arguments.rounds):
            for name, runs in rounds.items():
                folder = short if name == WITHOUT else long
                runs.append(run_alone(name, folder, arguments.results))
    least = {
        name: {key: min(facts[key] for facts in runs) for key in runs[0]}
        for name, runs in rounds.items()
    }
    base = least[WITHOUT]
    rows = [
        {
            "lists": name,
            "seconds": f"{facts['seconds']:.1f}",
            "of them before": f"{facts['prepare_seconds']:.1f}",
            "CPU s": f"{facts['cpu_seconds']:.1f}",
            "peak MB": f"{facts['peak_mb']:.0f}",
            "time": f"x {facts['seconds'] / base['seconds']:.2f}",
            "CPU time": f"x {facts['cpu_seconds'] / base['cpu_seconds']:.2f}",
            "memory": f"x {facts['peak_mb'] / base['peak_mb']:.2f}",
        }
        for name, facts in least.items()
    ]
    title = (
        f"\n{arguments.users:,} users x {arguments.results}, rules on {longer} results;"
        f" {arguments.interactions:,} interactions"
    )
    print(table(title, rows), flush=True)
    facts = {**vars(arguments), "longer": longer, "out": "", "scratch": ""}
    write(arguments.out, {**facts, "lists": rounds})


def main() -> None:
    """Measure all variants or, in a separate process, run a single variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=25)
    parser.add_argument("--longer", type=int, help="results that the rules choose from")
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where the generated files pass through")
    parser.add_argument("--out", type=Path, default=RESULTS / "list_rules.json")
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
