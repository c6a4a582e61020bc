"""Quality of the recommendations, compared with open-source models that are tuned as fairly.

    python benchmarks/quality.py [--folds 5] [--data FOLDER] [--only SET] [--out quality.json]

Amazon Personalize's split, several times: each fold holds out another tenth of the users, so no
user counts twice. Peers are tuned on the grids of peers.py, by mean NDCG at 25 over splits of the
first fold's training data (`--tuning-splits 9`, `--every 1`); ours selects its blend in every
training. The output is NDCG at 25 over all held-out users, and the paired difference to ours with
its standard error. Where a tenth of the interactions are repeats, the set is also compared with
seen items in the lists and in the truth. Some sets and peers need more packages:
pip install -r benchmarks/requirements.lock
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from peers import IALS, OWN_ITEMS, Family, Peer, available, fitted
from report import RESULTS, ROOT, table, write
from shapes import shapes

from batchrec_dagster.local_personalize.learning.evaluation import (
    Split,
    evaluate,
    split_users,
)
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.serving import UserModel
from batchrec_dagster.local_personalize.recipes import train

OURS = "ours (aws-user-personalization)"
NDCG = "ndcg_at_25"
TUNING_SPLITS = 9
REPEATS = 0.1  # share of interactions from which a set is compared with seen items too
FIRST_SPLITS = 3  # with the whole grid
FINALISTS = 10  # the best of the grid, on the other splits

# --- tuning ---


def tune(
    family: Family, data: Interactions, count: int, include_seen: bool
) -> tuple[dict[str, Any], float]:
    """The options and recency exponent with the best mean NDCG at 25 over all splits."""
    splits = folds(data, count, seed=1)
    grid = family.grid
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    found: dict[tuple[int, float], list[float]] = {}

    def try_on(one: Split, numbers: list[int]) -> None:
        for number in numbers:
            fit = fitted(family, one.train, choices[number])
            for recency in family.recency:
                users = evaluate(fit(recency), one, include_seen=include_seen).ndcg()
                found.setdefault((number, recency), []).extend(users)

    for one in splits[:FIRST_SPLITS]:
        try_on(one, list(range(len(choices))))
    best = {
        number: max(np.mean(found[number, recency]) for recency in family.recency)
        for number in range(len(choices))
    }
    finalists = sorted(best, key=lambda number: -best[number])[:FINALISTS]
    for one in splits[FIRST_SPLITS:]:
        try_on(one, finalists)
    number, recency = max(
        itertools.product(finalists, family.recency), key=lambda key: np.mean(found[key])
    )
    return choices[number], recency


# --- the data ---


def film_ratings(
    path: Path, separator: str, columns: tuple[str, ...], min_rating: float
) -> pl.DataFrame:
    """Ratings of at least `min_rating`, as interactions."""
    user, item, rating, timestamp = columns
    frame = pl.read_csv(path, separator=separator, infer_schema=False)
    return frame.filter(pl.col(rating).cast(pl.Float64) >= min_rating).select(
        USER_ID=user,
        ITEM_ID=item,
        TIMESTAMP=pl.col(timestamp).cast(pl.Float64).cast(pl.Int64),
    )


def data_sets(shared: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and interactions of each data set that is present."""
    films = ROOT / ".batchrec" / "benchmarks" / "ml-100k"
    fetch = shared / "fetch-ml-100k"
    if not films.exists() and fetch.exists():
        subprocess.run([fetch, films], check=True, stdout=subprocess.DEVNULL)
    if films.exists():
        columns = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
        yield "ml-100k", film_ratings(films / "ml-100k.inter", "\t", columns, 4)
    path = shared / "ml-latest-small" / "ratings.csv"
    if path.exists():
        columns = ("userId", "movieId", "rating", "timestamp")
        yield "ml-latest-small", film_ratings(path, ",", columns, 3.5)
    path = shared / "personalize-interactions" / "interactions.csv"
    if path.exists():
        frame = pl.read_csv(path, infer_schema=False)
        yield (
            "personalize-interactions",
            frame.select("USER_ID", "ITEM_ID", pl.col("TIMESTAMP").cast(pl.Int64)),
        )
    yield from shapes()


def folds(data: Interactions, count: int, seed: int = 0) -> list[Split]:
    """Up to ten splits; each holds out another tenth of the users with a history."""
    candidates = np.flatnonzero(np.diff(data.starts) >= 2)
    shuffled = np.random.default_rng(seed).permutation(candidates).astype(np.int32)
    return [split_users(data, np.sort(part)) for part in np.array_split(shuffled, 10)[:count]]


# --- the comparison ---


@dataclass(frozen=True)
class Comparison:
    """How models are compared on a data set."""

    data: Interactions
    folds: int
    tuning_splits: int
    every: int  # of each grid of options only every such value

    def models(self) -> tuple[list[Split], dict[str, list[tuple[UserModel, float]]]]:
        """The folds; our model and the popular items of each, with the seconds of the training."""
        held = folds(self.data, self.folds)
        recipes = {OURS: "aws-user-personalization", "popularity": "aws-popularity-count"}
        return held, {
            name: [
                timed(lambda on, recipe=recipe: train(recipe, on, {}).model, one) for one in held
            ]
            for name, recipe in recipes.items()
        }

    def compare(
        self, held: list[Split], own: dict[str, list[tuple[UserModel, float]]], include_seen: bool
    ) -> dict[str, dict[str, Any]]:
        """For each model: NDCG of all held-out users, options, mean training seconds."""
        found = {name: measured(models, held, {}, include_seen) for name, models in own.items()}
        for name, family in available().items():
            if name == OWN_ITEMS and not include_seen:
                continue
            grid = {
                key: values[min(self.every // 2, len(values) - 1) :: self.every]
                for key, values in family.grid.items()
            }
            thin = replace(family, grid=grid)
            options, recency = tune(thin, held[0].train, self.tuning_splits, include_seen)

            def make(
                on: Interactions,
                family: Family = family,
                options: dict[str, Any] = options,
                recency: float = recency,
            ) -> Peer:
                return fitted(family, on, options)(recency)

            models = [timed(make, one) for one in held]
            chosen = {**options, **({"recency": recency} if recency else {})}
            found[name] = measured(models, held, chosen, include_seen)
            print(f"{name}: {found[name]['users'].mean():.4f} {chosen}", flush=True)
        return found


def timed(make: Callable[[Interactions], Any], fold: Split) -> tuple[UserModel, float]:
    """The model of a fold, and the seconds that it took."""
    start = time.perf_counter()
    return make(fold.train), time.perf_counter() - start


def measured(
    models: list[tuple[UserModel, float]],
    held: list[Split],
    options: dict[str, Any],
    include_seen: bool,
) -> dict[str, Any]:
    """NDCG at 25 of all held-out users, options, mean training seconds."""
    users = [
        evaluate(model, one, include_seen=include_seen).ndcg()
        for (model, _), one in zip(models, held, strict=True)
    ]
    seconds = float(np.mean([seconds for _, seconds in models]))
    return {"options": options, "train_seconds": seconds, "users": np.concatenate(users)}


def summarize(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means, ratios to ours, and paired differences with their standard errors."""
    ours = found[OURS]["users"]
    out = {}
    for name, facts in found.items():
        users = facts.pop("users")
        difference = ours - users
        out[name] = {
            NDCG: float(users.mean()),
            "ours_over_it": float(ours.mean() / users.mean()),
            "ours_less_it": float(difference.mean()),
            "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
            "held_out_users": len(users),
            **facts,
        }
    return out


def lines(rows: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """The table rows of one data set, the best model first."""
    return [
        {
            "model": name,
            "NDCG@25": f"{row[NDCG]:.4f}",
            "ours/it": f"{row['ours_over_it']:.3f}",
            "ours-it": f"{row['ours_less_it']:.4f}",
            "± SE": f"{row['standard_error']:.4f}",
            "train s": f"{row['train_seconds']:.2f}",
            "options": ", ".join(f"{key} {value:g}" for key, value in row["options"].items()),
        }
        for name, row in sorted(rows.items(), key=lambda item: -item[1][NDCG])
    ]


def verdict(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Ours over tuned iALS per data set and on average, and the closest peer of each data set."""
    over = {name: rows[IALS]["ours_over_it"] for name, rows in results.items()}
    worst = {
        name: min(
            (row["ours_less_it"] / row["standard_error"], peer)
            for peer, row in rows.items()
            if peer != OURS
        )
        for name, rows in results.items()
    }
    return "\n".join(
        [
            f"\nours over {IALS}: {np.mean(list(over.values())):.3f} on average",
            *(
                f"  {name}: {over[name]:.3f}; the closest peer is {peer},"
                f" {errors:+.1f} standard errors away"
                for name, (errors, peer) in worst.items()
            ),
        ]
    )


def main() -> None:
    """Compare on every data set that is present."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folds", type=int, default=5, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", help="one data set, by name")
    parser.add_argument("--tuning-splits", type=int, default=TUNING_SPLITS)
    parser.add_argument("--every", type=int, default=1, help="try every Nth value of each grid")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality.json")
    args = parser.parse_args()
    results = {}
    for name, frame in data_sets(args.data.resolve()):
        if args.only not in (None, name):
            continue
        data = Interactions.from_frame(frame)
        comparison = Comparison(data, args.folds, args.tuning_splits, args.every)
        held, own = comparison.models()
        repeats = 1 - frame.select("USER_ID", "ITEM_ID").n_unique() / len(frame)
        for with_seen in (False, True)[: 1 + (repeats >= REPEATS)]:
            title = f"{name}, seen items too" if with_seen else name
            results[title] = summarize(comparison.compare(held, own, with_seen))
            users = results[title][OURS]["held_out_users"]
            print(table(f"\n{title}: {users} held-out users", lines(results[title])), flush=True)
    if not results:
        raise SystemExit(f"no data set in {args.data}")
    print(verdict(results))
    write(args.out, {"folds": args.folds, "data_sets": results})


if __name__ == "__main__":
    main()
