"""Cost of filters: a batch job's lines with a filter, compared with the same lines without.

    python benchmarks/filters.py [--users 10000] [--items 8000] [--out filters.json]

Times are of a whole job, from datasets in memory to the output file. The filters take turns, and
the best round of each counts. `ratio` is the time over that without a filter; `cpu ratio` is the
same for processor time, which is less sensitive to other load.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from generated import Size, generate_blocks
from report import RESULTS, table, write

from batchrec_dagster.local_personalize.data.recommender import Recommender
from batchrec_dagster.local_personalize.filters.job import JobFilter
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.recipes import RECIPES, train
from batchrec_dagster.personalize.recipes import (
    POPULARITY_COUNT,
    USER_PERSONALIZATION,
    build_recipe_arn,
)

GENRES = [f"genre{n}" for n in range(24)]
SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
CHOSEN = "INCLUDE ItemID WHERE Items.GENRES IN ($GENRES) AND Items.PRICE < $PRICE"


@dataclass(frozen=True)
class Case:
    """A filter, and the `filterValues` of each line."""

    name: str
    expression: str | None
    values: Callable[[int], dict[str, str]] = lambda line: {}


CASES = [
    Case("no filter", None),
    Case("seen items", SEEN),
    Case("only clicked items", 'INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click")'),
    Case("a genre and a price", 'INCLUDE ItemID WHERE Items.GENRES IN ("genre1") OR Items.PRICE<9'),
    Case(
        "by the user's age and plan",
        'EXCLUDE ItemID WHERE Items.GENRES IN ("genre1") IF CurrentUser.AGE < 18'
        ' | EXCLUDE ItemID WHERE Items.PRICE > 50 IF CurrentUser.PLAN = "free"',
    ),
    Case(
        "one of 24 genres per line",
        "INCLUDE ItemID WHERE Items.GENRES IN ($GENRES)",
        lambda line: {"GENRES": f'"{GENRES[line % 24]}"'},
    ),
    Case(
        "new values on every line",
        CHOSEN,
        lambda line: {"GENRES": f'"{GENRES[line % 24]}","genre0"', "PRICE": f"{line / 200 + 20}"},
    ),
    Case(
        "all combined",
        f"{SEEN} | {CHOSEN} | EXCLUDE ItemID WHERE Items.PRICE > 90 IF CurrentUser.AGE < 30"
        ' | INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("buy")',
        lambda line: {"GENRES": f'"{GENRES[line % 24]}"', "PRICE": f"{line / 200 + 20}"},
    ),
]


def generate_data_sets(size: Size) -> dict[str, pl.DataFrame]:
    """Interactions with event types, items with genres and prices, users with ages and plans."""
    rng = np.random.default_rng(0)
    interactions = pl.concat(list(generate_blocks(size)))
    events = np.array(["click", "buy", "watch"])[rng.integers(0, 3, len(interactions))]
    interactions = interactions.with_columns(EVENT_TYPE=pl.Series(events))
    items = interactions["ITEM_ID"].unique().sort()
    users = interactions["USER_ID"].unique().sort()
    genres = rng.integers(0, len(GENRES), (len(items), 3)).tolist()
    return {
        "INTERACTIONS": interactions,
        "ITEMS": pl.DataFrame(
            {
                "ITEM_ID": items,
                "GENRES": ["|".join(GENRES[n] for n in row) for row in genres],
                "PRICE": rng.random(len(items)) * 100,
            }
        ),
        "USERS": pl.DataFrame(
            {
                "USER_ID": users,
                "AGE": rng.integers(10, 80, len(users)),
                "PLAN": np.array(["free", "gold"])[rng.integers(0, 2, len(users))],
            }
        ),
    }


def measure(recipe: str, data: dict[str, pl.DataFrame], rounds: int) -> list[dict[str, Any]]:
    """Wall and processor seconds of each case, best of `rounds`."""
    model = train(recipe, Interactions.from_frame(data["INTERACTIONS"]), {}).model
    item_ids = model.item_ids.tolist()
    users = data["USERS"]["USER_ID"].to_list()

    def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
        return data[dataset_type].select(columns)

    def time_case(case: Case, source: Path) -> tuple[float, float]:
        start_seconds = time.perf_counter()
        cpu_begun = time.process_time()
        interactions = Interactions.from_frame(data["INTERACTIONS"])
        job_filter = JobFilter(case.expression, read, item_ids) if case.expression else None
        job = Recommender(RECIPES[build_recipe_arn(recipe)], job_filter, model, interactions, 25)
        job.answer(source, source.with_suffix(".out"), lambda lines: None)
        return time.perf_counter() - start_seconds, time.process_time() - cpu_begun

    best = {case.name: (float("inf"), float("inf")) for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        sources = {case.name: Path(folder) / f"{n}.json" for n, case in enumerate(CASES)}
        for case in CASES:
            lines = [
                json.dumps({"userId": user, "filterValues": case.values(line)})
                for line, user in enumerate(users)
            ]
            sources[case.name].write_text("\n".join(lines))
        for _ in range(rounds):
            for case in CASES:
                wall, cpu = time_case(case, sources[case.name])
                best[case.name] = (min(best[case.name][0], wall), min(best[case.name][1], cpu))
    unfiltered_seconds = best[CASES[0].name]
    return [
        {
            "filter": case.name,
            "expression": case.expression,
            "seconds": best[case.name][0],
            "cpu_seconds": best[case.name][1],
            "users_a_second": len(users) / best[case.name][0],
            "ratio": best[case.name][0] / unfiltered_seconds[0],
            "cpu_ratio": best[case.name][1] / unfiltered_seconds[1],
        }
        for case in CASES
    ]


def main() -> None:
    """Measure on a recipe with costly scoring and on one with cheap scoring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "filters.json")
    args = parser.parse_args()
    data = generate_data_sets(Size(args.users * 100, args.users, args.items))
    results = {}
    for recipe in (USER_PERSONALIZATION, POPULARITY_COUNT):
        results[recipe] = measure(recipe, data, args.rounds)
        rows = [
            {
                "filter": row["filter"],
                "seconds": f"{row['seconds']:.2f}",
                "users/s": f"{row['users_a_second']:,.0f}",
                "ratio": f"{row['ratio']:.2f}",
                "cpu ratio": f"{row['cpu_ratio']:.2f}",
            }
            for row in results[recipe]
        ]
        counts = f"{len(data['USERS']):,} users, {len(data['ITEMS']):,} items"
        print("\n" + table(f"{recipe}: {counts}, 25 results", rows), flush=True)
    size = {"users": len(data["USERS"]), "items": len(data["ITEMS"])}
    write(args.out, {**size, "rows": len(data["INTERACTIONS"]), "recipes": results})


if __name__ == "__main__":
    main()
