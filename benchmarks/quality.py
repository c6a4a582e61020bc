"""How good the recommendations are beside what others' models find, each tuned as fairly as ours.

    python benchmarks/quality.py [--folds 5] [--data ../shared/data] [--out quality.json]

Amazon Personalize's split, several times: each fold holds out another tenth of the users, so no
user counts twice. What a peer may choose (the grids below) it chooses on a split of the first
fold's training part. Printed: NDCG at 25 over all held-out users, and ours less each peer's with
the standard error of that difference, user by user.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix, diags

from batchrec_dagster.local_personalize.learning import ease
from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.model import Model
from batchrec_dagster.local_personalize.learning.popularity import popular_first
from batchrec_dagster.local_personalize.learning.serving import Recommended, recommend
from batchrec_dagster.local_personalize.learning.split import Split, split, split_users
from batchrec_dagster.local_personalize.learning.threads import cores, single_threaded_blas
from batchrec_dagster.local_personalize.learning.training import train

OURS = "ours (aws-user-personalization)"
NDCG = "ndcg_at_25"
ROOT = Path(__file__).resolve().parent.parent

Float32 = npt.NDArray[np.float32]
Options = Mapping[str, Any]
Score = Callable[[History], Float32]


@dataclass(frozen=True)
class Peer:
    """Enough of a Model to be evaluated."""

    item_ids: Ids
    score: Score

    def recommend(
        self, user_ids: list[str], data: Interactions, num_results: int, **masks: Any
    ) -> Iterator[Recommended]:
        """See Model."""
        return recommend(self.score, self.item_ids, user_ids, data, num_results, **masks)


# --- the peers: from (users, items) ones, the popular first, to scores ---


def fit_ials(matrix: csr_matrix, options: Options) -> Score:
    """Implicit-feedback matrix factorization (Hu, Koren, Volinsky 2008), by `implicit`."""
    model = AlternatingLeastSquares(
        iterations=15, random_state=0, num_threads=cores(), use_gpu=False, **options
    )
    with single_threaded_blas():  # as implicit asks for: it has threads of its own
        model.fit(matrix, show_progress=False)

    def score(history: History) -> Float32:
        met = history.weights(0.0)
        factors = model.recalculate_user(np.arange(met.shape[0]), met)
        return np.asarray(factors @ model.item_factors.T, dtype=np.float32)

    return score


def fit_ease(matrix: csr_matrix, options: Options) -> Score:
    """EASE (Steck 2019) with all of its weights."""
    n = matrix.shape[1]
    return by_item(
        ease.fit(matrix, core=n, regularization=options["regularization"], kept=n),
        options["recency"],
    )


def fit_knn(matrix: csr_matrix, options: Options) -> Score:
    """Cosine between items, the nearest of each (Sarwar 2001; Deshpande and Karypis 2004)."""
    lengths = np.sqrt(np.maximum(np.diff(matrix.tocsc().indptr), 1))
    unit = (matrix @ diags(1 / lengths)).astype(np.float32).tocsr()
    near = (unit.T @ unit).tocsr()
    near.setdiag(0)
    near.eliminate_zeros()
    for row in range(near.shape[0]):
        part = near.data[near.indptr[row] : near.indptr[row + 1]]
        if len(part) > options["neighbours"]:
            part[part < np.partition(part, -options["neighbours"])[-options["neighbours"]]] = 0
    near.eliminate_zeros()
    return by_item(near.T.tocsr(), options["recency"])


def by_item(weights: csr_matrix, recency: float) -> Score:
    """Scores of item-item weights over histories weighted by (1 + rank)^-recency."""
    return lambda history: (history.weights(recency) @ weights).toarray()


Fit = Callable[[csr_matrix, Options], Score]

PEERS: dict[str, tuple[Fit, dict[str, list[Any]]]] = {
    "iALS (implicit)": (
        fit_ials,
        {"factors": [32, 64, 128], "regularization": [1.0, 10.0, 100.0], "alpha": [1.0, 5.0, 20.0]},
    ),
    "EASE": (fit_ease, {"regularization": [50.0, 100.0, 200.0, 400.0, 800.0], "recency": [0.0]}),
    "EASE, recent first": (
        fit_ease,
        {"regularization": [50.0, 100.0, 200.0, 400.0, 800.0], "recency": [0.3, 0.5, 0.7]},
    ),
    "item-kNN": (fit_knn, {"neighbours": [20, 50, 100, 200, 400], "recency": [0.0]}),
    "item-kNN, recent first": (
        fit_knn,
        {"neighbours": [20, 50, 100, 200, 400], "recency": [0.3, 0.5, 0.7]},
    ),
}


def peer(fit: Fit, train_on: Interactions, options: Options) -> Model:
    """The peer, trained."""
    item_ids = train_on.item_ids[popular_first(train_on)]
    matrix = Histories(train_on, item_ids).of(np.unique(train_on.users)).weights(0.0)
    return cast("Model", Peer(item_ids, fit(matrix, options)))


def tuned(fit: Fit, grid: Mapping[str, list[Any]], train_on: Interactions) -> dict[str, Any]:
    """The options of the grid with the best NDCG at 25 on a split of the training part."""
    validation = split(train_on, seed=1)
    if validation is None:
        raise SystemExit("too few users to tune on")
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    found = [
        evaluate(peer(fit, validation.train, options), validation).ndcg().mean()
        for options in choices
    ]
    return choices[int(np.argmax(found))]


# --- the data ---


def film_ratings(
    path: Path, separator: str, columns: tuple[str, ...], least: float
) -> pl.DataFrame:
    """Ratings of at least `least`, as interactions."""
    user, item, rating, timestamp = columns
    frame = pl.read_csv(path, separator=separator, infer_schema=False)
    return frame.filter(pl.col(rating).cast(pl.Float64) >= least).select(
        USER_ID=user,
        ITEM_ID=item,
        TIMESTAMP=pl.col(timestamp).cast(pl.Float64).cast(pl.Int64),
    )


def data_sets(shared: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and interactions of each set that is there."""
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


def folds(data: Interactions, count: int, seed: int = 0) -> list[Split]:
    """Up to ten splits, each of which holds out another tenth of the users with a history."""
    candidates = np.flatnonzero(np.diff(data.starts) >= 2)
    shuffled = np.random.default_rng(seed).permutation(candidates).astype(np.int32)
    return [split_users(data, np.sort(part)) for part in np.array_split(shuffled, 10)[:count]]


# --- the comparison ---


def compare(data: Interactions, count: int) -> dict[str, dict[str, Any]]:
    """Every model over the folds: NDCG of each user, its options and seconds to train once."""
    held = folds(data, count)
    contenders: dict[str, tuple[Callable[[Interactions], Model], dict[str, Any]]] = {
        OURS: (lambda on: train("aws-user-personalization", on, {}).model, {}),
        "popularity": (lambda on: train("aws-popularity-count", on, {}).model, {}),
    }
    for name, (fit, grid) in PEERS.items():
        options = tuned(fit, grid, held[0].train)
        contenders[name] = (
            lambda on, fit=fit, options=options: peer(fit, on, options),  # type: ignore[misc]
            options,
        )
    found: dict[str, dict[str, Any]] = {}
    for name, (make, options) in contenders.items():
        seconds, parts = 0.0, []
        for fold in held:
            start = time.perf_counter()
            model = make(fold.train)
            seconds += time.perf_counter() - start
            parts.append(evaluate(model, fold).ndcg())
        ndcg = np.concatenate(parts)
        found[name] = {"options": options, "train_seconds": seconds / len(held), "users": ndcg}
    return found


def summarised(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means, ours over each peer's, and the paired difference with its standard error."""
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


def table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    """One data set's numbers for reading."""
    lines = [
        f"\n{title}: {rows[OURS]['held_out_users']} held-out users",
        f"{'model':34}{'NDCG@25':>8}{'ours/it':>9}{'ours-it':>9}{'± SE':>8}{'train s':>9}  options",
    ]
    for name, row in sorted(rows.items(), key=lambda item: -item[1][NDCG]):
        options = ", ".join(f"{key} {value:g}" for key, value in row["options"].items())
        lines.append(
            f"{name:34}{row[NDCG]:8.4f}{row['ours_over_it']:9.3f}{row['ours_less_it']:9.4f}"
            f"{row['standard_error']:8.4f}{row['train_seconds']:9.2f}  {options}"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare on every data set that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folds", type=int, default=5, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", help="one data set, by name")
    parser.add_argument("--out", type=Path, default=ROOT / ".batchrec/benchmarks/quality.json")
    asked = parser.parse_args()
    results = {}
    for name, frame in data_sets(asked.data.resolve()):
        if asked.only in (None, name):
            results[name] = summarised(compare(Interactions.from_frame(frame), asked.folds))
            print(table(name, results[name]), flush=True)
    if not results:
        raise SystemExit(f"no data set in {asked.data}")
    machine = {
        "cores": cores(),
        "processor": platform.machine(),
        "python": platform.python_version(),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(
        json.dumps({"machine": machine, "folds": asked.folds, "data_sets": results}, indent=1)
        + os.linesep
    )
    print(f"\nwritten: {asked.out}")


if __name__ == "__main__":
    main()
