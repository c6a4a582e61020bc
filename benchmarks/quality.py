"""Quality of the recommendations, compared with open-source models that are tuned.

    python benchmarks/quality.py [--folds 5] [--first 0] [--data FOLDER] [--only SET] [--isolated]

Each fold splits the data as Amazon Personalize does, and holds out another tenth of the users, so
that no user counts twice. Peers are tuned on the grids of peers.py, by mean NDCG at 25 over splits
of the first fold's training data. `--tuning-splits` sets the number of these splits, and with
`--every N` only every Nth value of a grid is tried. Our engine blends several models, and selects
the blend anew in every training.

The output is NDCG at 25 over all held-out users, the paired difference to our engine with its 95 %
interval, and our ratio to the best peer of each set. `--isolated` adds RecTools and LensKit. They
run in a separate environment (isolated.py), and are tuned on a single split. If at least a tenth of
a set's interactions are repeats, there is a second comparison on the set. There, lists may have
items that the user already had, and a repeat counts as a hit. Some sets and peers need more
packages: pip install -r benchmarks/requirements.lock
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from held_out import GivenLists, measure_users, split_users
from isolated import ISOLATED, IsolatedModel, fit_lists
from peers import OWN_ITEMS, Family, Peer, fit_family, list_available
from report import RESULTS, ROOT, table, write
from shapes import generate_shapes

from batchrec_dagster.local_personalize.engine.data import (
    Float32,
    History,
    Ids,
    Int32,
    Interactions,
    order_by_popularity,
)
from batchrec_dagster.local_personalize.engine.evaluate import HeldOut
from batchrec_dagster.local_personalize.engine.serve import UserModel, top_k
from batchrec_dagster.local_personalize.trained_recipes import train

OURS = "ours (aws-user-personalization)"
NDCG = "ndcg_at_25"
TUNING_SPLITS = 9
# The least share of repeats at which a set is compared a second time, with seen items in the lists.
REPEATS = 0.1
# All options of the grid are tried on this many splits, and only the best ones on the other splits.
FIRST_SPLITS = 3
FINALISTS = 10  # the number of best options
FILMS = "ml-100k"
AnyModel = UserModel | GivenLists
THIN = (f"{FILMS}, a random tenth", f"{FILMS}, in pieces of 2 to 5")

# --- tuning ---


def tune(
    family: Family, data: Interactions, count: int, include_seen: bool
) -> tuple[dict[str, Any], float]:
    """Return the options and recency exponent with the best mean NDCG at 25 over all splits."""
    splits = folds(data, count, seed=1)
    grid = family.grid
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    ndcg_by_choice: dict[tuple[int, float], list[float]] = {}

    def try_on(fold: HeldOut, numbers: list[int]) -> None:
        for number in numbers:
            fit = fit_family(family, fold.train, choices[number])
            for recency in family.recency:
                users = measure_users(fit(recency), fold, include_seen=include_seen)
                ndcg_by_choice.setdefault((number, recency), []).extend(users)

    for fold in splits[:FIRST_SPLITS]:
        try_on(fold, list(range(len(choices))))
    best = {
        number: max(np.mean(ndcg_by_choice[number, recency]) for recency in family.recency)
        for number in range(len(choices))
    }
    finalists = sorted(best, key=lambda number: -best[number])[:FINALISTS]
    for fold in splits[FIRST_SPLITS:]:
        try_on(fold, finalists)
    number, recency = max(
        itertools.product(finalists, family.recency), key=lambda key: np.mean(ndcg_by_choice[key])
    )
    return choices[number], recency


# --- the data ---


def film_ratings(
    path: Path, separator: str, columns: tuple[str, ...], min_rating: float
) -> pl.DataFrame:
    """Return ratings of at least `min_rating` as interactions."""
    user, item, rating, timestamp = columns
    frame = pl.read_csv(path, separator=separator, infer_schema=False)
    return frame.filter(pl.col(rating).cast(pl.Float64) >= min_rating).select(
        USER_ID=user,
        ITEM_ID=item,
        TIMESTAMP=pl.col(timestamp).cast(pl.Float64).cast(pl.Int64),
    )


def data_sets(shared_folder: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the name and interactions of each data set that is present."""
    films = ROOT / ".batchrec" / "benchmarks" / "ml-100k"
    fetch = shared_folder / "fetch-ml-100k"
    if not films.exists() and fetch.exists():
        subprocess.run([fetch, films], check=True, stdout=subprocess.DEVNULL)
    if films.exists():
        columns = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
        ratings = film_ratings(films / "ml-100k.inter", "\t", columns, 4)
        yield FILMS, ratings
        yield from zip(THIN, (random_tenth(ratings), in_pieces(ratings)), strict=True)
    path = shared_folder / "ml-latest-small" / "ratings.csv"
    if path.exists():
        columns = ("userId", "movieId", "rating", "timestamp")
        yield "ml-latest-small", film_ratings(path, ",", columns, 3.5)
    path = shared_folder / "personalize-interactions" / "interactions.csv"
    if path.exists():
        frame = pl.read_csv(path, infer_schema=False)
        yield (
            "personalize-interactions",
            frame.select("USER_ID", "ITEM_ID", pl.col("TIMESTAMP").cast(pl.Int64)),
        )
    yield from generate_shapes()


def random_tenth(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a random tenth of each history, and at least two interactions."""
    rows = frame.sort("USER_ID", "TIMESTAMP", "ITEM_ID")
    drawn = pl.Series(np.random.default_rng(0).random(len(rows)))
    place = pl.col("drawn").rank("ordinal").over("USER_ID")
    rows_to_keep = (pl.len().over("USER_ID") * 0.1).ceil().clip(2)
    return rows.with_columns(drawn=drawn).filter(place <= rows_to_keep).drop("drawn")


def in_pieces(frame: pl.DataFrame) -> pl.DataFrame:
    """Return histories cut into pieces of 2 to 5 interactions; each piece becomes a user."""
    rows = frame.sort("USER_ID", "TIMESTAMP", "ITEM_ID")
    starts = np.random.default_rng(0).integers(2, 6, len(rows)).cumsum()
    piece = np.searchsorted(starts, np.arange(len(rows)), side="right")
    user = pl.concat_str(pl.col("USER_ID"), pl.Series(piece).cast(pl.String), separator="-")
    return rows.with_columns(USER_ID=user)


def folds(data: Interactions, count: int, seed: int = 0) -> list[HeldOut]:
    """Return up to ten splits. Each holds out another tenth of the users with 2+ interactions."""
    candidates = np.flatnonzero(np.diff(data.starts) >= 2)
    user_order = np.random.default_rng(seed).permutation(candidates).astype(np.int32)
    return [split_users(data, np.sort(part)) for part in np.array_split(user_order, 10)[:count]]


# --- the comparison ---


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison of models on a data set."""

    data: Interactions
    folds: range
    tuning_splits: int
    every: int  # the tuning tries every Nth value of a grid
    isolated: bool  # whether RecTools and LensKit are compared too

    def train_own(self) -> tuple[list[HeldOut], dict[str, list[tuple[AnyModel, float]]]]:
        """Train our engine, and find the popular items, on every fold.

        Returns the folds, and for each model's name a list with the trained model and the training
        seconds of each fold.
        """
        splits = folds(self.data, self.folds.stop)[self.folds.start :]
        trainers = {
            OURS: lambda interactions: train("aws-user-personalization", interactions, {})[0],
            "popularity": find_popular_items,
        }
        return splits, {
            name: [train_and_time(trainer, fold) for fold in splits]
            for name, trainer in trainers.items()
        }

    def compare(
        self,
        splits: list[HeldOut],
        own: dict[str, list[tuple[AnyModel, float]]],
        include_seen: bool,
    ) -> dict[str, dict[str, Any]]:
        """Return the held-out users' NDCG, the options and mean training seconds of each model."""
        results = {
            name: measure_models(models, splits, {}, include_seen) for name, models in own.items()
        }
        for name, family in list_available().items():
            if name == OWN_ITEMS and not include_seen:
                continue
            grid = {
                key: values[min(self.every // 2, len(values) - 1) :: self.every]
                for key, values in family.grid.items()
            }
            with_grid = replace(family, grid=grid)
            options, recency = tune(with_grid, splits[0].train, self.tuning_splits, include_seen)

            def make(
                interactions: Interactions,
                family: Family = family,
                options: dict[str, Any] = options,
                recency: float = recency,
            ) -> Peer:
                return fit_family(family, interactions, options)(recency)

            models = [train_and_time(make, fold) for fold in splits]
            chosen = {**options, **({"recency": recency} if recency else {})}
            results[name] = measure_models(models, splits, chosen, include_seen)
            print(f"{name}: {results[name]['users'].mean():.4f} {chosen}", flush=True)
        for name, isolated_model in ISOLATED.items() if self.isolated and not include_seen else ():
            results[name] = self.compare_isolated(isolated_model, splits)
            print(
                f"{name}: {results[name]['users'].mean():.4f} {results[name]['options']}",
                flush=True,
            )
        return results

    def compare_isolated(
        self, isolated_model: IsolatedModel, splits: list[HeldOut]
    ) -> dict[str, Any]:
        """Return the held-out users' NDCG for a model of RecTools or LensKit."""
        choices = isolated_model.list_choices()[:: self.every]
        [tuning_split] = folds(splits[0].train, 1, seed=1)
        tried_models = fit_lists(
            tuning_split, [(isolated_model.model, options) for options in choices]
        )
        best = max(
            range(len(choices)), key=lambda n: measure_users(tried_models[n], tuning_split).mean()
        )

        def fit_best(split: HeldOut, _: Interactions) -> GivenLists:
            return fit_lists(split, [(isolated_model.model, choices[best])])[0]

        models = [train_and_time(partial(fit_best, split), split) for split in splits]
        return measure_models(models, splits, choices[best], include_seen=False)


@dataclass(frozen=True)
class PopularItems:
    """A baseline model that gives all users the items with the most interactions."""

    item_ids: Ids
    """The distinct item ids, of shape (n_items,), the most popular first."""

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """Return scores of shape (users, n_items)."""
        falling = -np.arange(len(self.item_ids), dtype=np.float32)
        return np.tile(falling, (len(history.lengths), 1))

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """Return the k items with the highest scores, of shape (users, k), the best first."""
        return top_k(scores, k)


def find_popular_items(interactions: Interactions) -> PopularItems:
    """Return a model that gives all users the items with the most interactions."""
    return PopularItems(interactions.item_ids[order_by_popularity(interactions)])


def train_and_time(make: Callable[[Interactions], Any], fold: HeldOut) -> tuple[AnyModel, float]:
    """Train a fold's model, and return the model and the seconds of its training."""
    start = time.perf_counter()
    return make(fold.train), time.perf_counter() - start


def measure_models(
    models: list[tuple[AnyModel, float]],
    splits: list[HeldOut],
    options: dict[str, Any],
    include_seen: bool,
) -> dict[str, Any]:
    """Return NDCG at 25 of all held-out users, the options and the mean training seconds."""
    users = [
        measure_users(model, fold, include_seen=include_seen)
        for (model, _), fold in zip(models, splits, strict=True)
    ]
    seconds = float(np.mean([seconds for _, seconds in models]))
    return {"options": options, "train_seconds": seconds, "users": np.concatenate(users)}


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each model's mean NDCG, our ratio to it, and our paired difference from it.

    `interval` is half the width of the difference's 95 % interval.
    """
    ours = results[OURS]["users"]
    out = {}
    for name, facts in results.items():
        users = facts.pop("users")
        difference = ours - users
        out[name] = {
            NDCG: float(users.mean()),
            "ours_over_it": float(ours.mean() / users.mean()),
            "ours_less_it": float(difference.mean()),
            "interval": float(1.96 * difference.std(ddof=1) / np.sqrt(len(difference))),
            "held_out_users": len(users),
            **facts,
        }
    return out


def lines(rows: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return the table rows of a data set, the best model first."""
    return [
        {
            "model": name,
            "NDCG@25": f"{row[NDCG]:.4f}",
            "ours/it": f"{row['ours_over_it']:.3f}",
            "ours-it": f"{row['ours_less_it']:+.4f}",
            "± 95 %": f"{row['interval']:.4f}",
            "train s": f"{row['train_seconds']:.2f}",
            "options": ", ".join(f"{key} {value}" for key, value in row["options"].items()),
        }
        for name, row in sorted(rows.items(), key=lambda item: -item[1][NDCG])
    ]


def verdict(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return a table of our ratio to, and difference from, the best peer, with the mean ratio."""
    best = {
        name: max((row[NDCG], peer) for peer, row in rows.items() if peer != OURS)[1]
        for name, rows in results.items()
    }
    over = [results[name][peer]["ours_over_it"] for name, peer in best.items()]
    rows = [
        {
            "data set": name,
            "best peer": peer,
            "users": str(results[name][peer]["held_out_users"]),
            "ours/it": f"{results[name][peer]['ours_over_it']:.3f}",
            "ours-it": f"{results[name][peer]['ours_less_it']:+.4f}",
            "± 95 %": f"{results[name][peer]['interval']:.4f}",
        }
        for name, peer in best.items()
    ]
    return table(f"\nours over the best peer: {np.mean(over):.3f} on average", rows)


def main() -> None:
    """Compare on every data set that is present."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folds", type=int, default=5, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--first", type=int, default=0, help="leave out the folds before this one")
    parser.add_argument("--isolated", action="store_true", help="compare RecTools and LensKit too")
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
        numbers = range(args.first, min(10, args.first + args.folds))
        comparison = Comparison(data, numbers, args.tuning_splits, args.every, args.isolated)
        splits, own_models = comparison.train_own()
        repeats = 1 - frame.select("USER_ID", "ITEM_ID").n_unique() / len(frame)
        for include_seen in [False, True] if repeats >= REPEATS else [False]:
            title = f"{name}, seen items too" if include_seen else name
            results[title] = summarize(comparison.compare(splits, own_models, include_seen))
            users = results[title][OURS]["held_out_users"]
            print(table(f"\n{title}: {users} held-out users", lines(results[title])), flush=True)
    if not results:
        raise SystemExit(f"no data set in {args.data}")
    print(verdict(results))
    write(args.out, {"folds": args.folds, "first": args.first, "data_sets": results})


if __name__ == "__main__":
    main()
