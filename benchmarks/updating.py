"""Time and quality of trainingMode UPDATE, compared with a full training on the same data.

    python benchmarks/updating.py [--folds 5] [--data FOLDER] [--only SET] [--growth 0.1]

The newest interactions arrive after the first training. Each fold holds out another tenth of the
users from every training and evaluates three models on them: before, updated, trained in full. The
data sets are those of quality.py and a generated one, shaped like HetRec.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from generated import Size, generate_blocks
from quality import data_sets, folds
from report import RESULTS, ROOT, table, write

from batchrec_dagster.local_personalize.learning.evaluation import Split, evaluate
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.serving import UserModel
from batchrec_dagster.local_personalize.recipes import train

RECIPE = "aws-user-personalization"
UPDATED, FULL = "updated", "trained in full"
GENERATED = Size(855_000, 2_113, 10_000)


def select(data: Interactions, rows: np.ndarray) -> Interactions:
    """The interactions of a mask, without ids that have no interactions left."""
    frame_kept = data.filter(rows)
    return Interactions.from_frame(
        pl.DataFrame(
            {
                "USER_ID": pl.Series(
                    frame_kept.user_ids[frame_kept.users].tolist(), dtype=pl.String
                ),
                "ITEM_ID": pl.Series(
                    frame_kept.item_ids[frame_kept.items].tolist(), dtype=pl.String
                ),
                "TIMESTAMP": frame_kept.timestamps,
            }
        )
    )


def compare(held_out: Split, growth: float) -> Iterator[tuple[str, float, np.ndarray]]:
    """Each model's name, training seconds and (users,) NDCG at 25."""
    current_data = held_out.train
    old = select(
        current_data, current_data.timestamps < np.quantile(current_data.timestamps, 1 - growth)
    )
    all_data = select(current_data, np.ones(len(current_data), bool))
    with tempfile.TemporaryDirectory() as folder:
        for name, data, previous in (
            ("before", old, None),
            (UPDATED, all_data, Path(folder)),
            (FULL, all_data, None),
        ):
            began = time.perf_counter()
            model = train(RECIPE, data, {}, previous=previous).model
            seconds = time.perf_counter() - began
            assert isinstance(model, UserModel)
            if name == "before":
                model.save(Path(folder))
            yield name, seconds, evaluate(model, held_out).ndcg()


def measure_over_folds(data: Interactions, count: int, growth: float) -> dict[str, Any]:
    """Mean seconds and NDCG of each model; the update relative to the full training."""
    seconds: dict[str, list[float]] = {}
    users: dict[str, list[np.ndarray]] = {}
    for held_out in folds(data, count):
        for name, seconds_spent, ndcg in compare(held_out, growth):
            seconds.setdefault(name, []).append(seconds_spent)
            users.setdefault(name, []).append(ndcg)
    difference = np.concatenate(users[UPDATED]) - np.concatenate(users[FULL])
    return {
        "seconds": {name: float(np.mean(seconds_spent)) for name, seconds_spent in seconds.items()},
        "ndcg": {name: float(np.concatenate(scorers).mean()) for name, scorers in users.items()},
        "update_over_full": float(np.sum(seconds[UPDATED]) / np.sum(seconds[FULL])),
        "update_less_full": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }


def build_rows(results: dict[str, Any]) -> list[dict[str, str]]:
    """The table rows of one data set."""
    return [
        {
            "model": name,
            "seconds": f"{seconds:.2f}",
            "NDCG@25": f"{results['ndcg'][name]:.4f}",
            "less full": f"{results['update_less_full']:+.4f}" if name == UPDATED else "",
            "± SE": f"{results['standard_error']:.4f}" if name == UPDATED else "",
        }
        for name, seconds in results["seconds"].items()
    ]


def main() -> None:
    """Train, add data, update, train in full; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folds", type=int, default=5, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", help="one data set, by name")
    parser.add_argument("--growth", type=float, default=0.1, help="weight that is new")
    parser.add_argument("--out", type=Path, default=RESULTS / "updating.json")
    args = parser.parse_args()
    results = {}
    for name, frame in [*data_sets(args.data.resolve()), ("generated", None)]:
        if args.only in (None, name):
            rows = pl.concat(generate_blocks(GENERATED)) if frame is None else frame
            fold_results = measure_over_folds(
                Interactions.from_frame(rows), args.folds, args.growth
            )
            print(
                table(f"\n{name}: update and full training", build_rows(fold_results)), flush=True
            )
            results[name] = fold_results
    write(args.out, {"folds": args.folds, "growth": args.growth, "data_sets": results})


if __name__ == "__main__":
    main()
