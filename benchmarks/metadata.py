"""What the Items dataset adds: accuracy, short histories, new items; of films with genres, years.

    python benchmarks/metadata.py [--folds 10] [--first 0] [--data FOLDER] [--out metadata.json]

Each fold holds out another tenth of the users, as in quality.py. "warm": NDCG at 25 with and
without the Items dataset, over whole histories, and over the last three and the last interaction of
each; then the same on a random tenth of the interactions. "new": all interactions of a tenth of the
items, drawn at random or the last to appear, are removed from the training and from the histories;
how well are those that held-out users had found among these items, compared with a random order and
with the cosine of the features; and what do new items in the lists change in NDCG at 25, of the
other items, and of all. Differences are paired by user.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from quality import data_sets, folds
from report import RESULTS, ROOT, table, write

from batchrec_dagster.local_personalize.learning.evaluation import Split, evaluate, ndcg
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    Interactions,
    find_positions,
)
from batchrec_dagster.local_personalize.learning.item_features import ItemFeatures, read_features
from batchrec_dagster.local_personalize.learning.models import BlendModel
from batchrec_dagster.local_personalize.learning.ranking import top_k
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.schemas import ITEM_ID, Field

Float64 = npt.NDArray[np.float64]
FIELDS = [Field("GENRES", "string", categorical=True), Field("YEAR", "int", nullable=True)]
SHORT = (3, 1)  # interactions
THIN = 0.1  # of the interactions
NEW_SHARE = 0.1  # of the items
DEPTH = 10  # of the order of new items
WEIGHTS = (0.3, 0.6, 0.9)  # explorationWeight
NONE = 1e-9  # explorationWeight with which new items count, and are in no list
OTHERS, ALL = "other items", "all items"


def items_of(name: str, shared: Path) -> pl.DataFrame | None:
    """GENRES and YEAR of the films of a data set; None if it has no films."""
    year = pl.col("YEAR").cast(pl.Int64, strict=False)
    if name == "ml-100k":
        path = ROOT / ".batchrec" / "benchmarks" / "ml-100k" / "ml-100k.item"
        films = pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
        genres = pl.col("class:token_seq").str.replace_all(" ", "|")
        columns = films.select(ITEM_ID="item_id:token", GENRES=genres, YEAR="release_year:token")
        return columns.with_columns(year)
    if name == "ml-latest-small":
        films = pl.read_csv(shared / "ml-latest-small" / "movies.csv", infer_schema=False)
        titled = pl.col("title").str.extract(r"\((\d{4})\)\s*$")
        return films.select(ITEM_ID="movieId", GENRES="genres", YEAR=titled).with_columns(year)
    return None


def trained(data: Interactions) -> BlendModel:
    """Our model of the interactions."""
    model = train("aws-user-personalization", data, {}).model
    assert isinstance(model, BlendModel)
    return model


def last(held: Split, count: int) -> Split:
    """The split with the last interactions of each history only."""
    data = held.inputs
    behind = data.starts[data.users + 1] - np.arange(len(data))
    return replace(held, inputs=data.filter(behind <= count))


def thinned(data: Interactions) -> Interactions:
    """A random tenth of the interactions."""
    return data.filter(np.random.default_rng(0).random(len(data)) < THIN)


def without(data: Interactions, dropped: npt.NDArray[np.bool_]) -> Interactions:
    """The interactions, and the ids, without these items."""
    kept = data.filter(~dropped[data.items])
    number = np.cumsum(~dropped) - 1
    return replace(
        kept, item_ids=data.item_ids[~dropped], items=number[kept.items].astype(np.int32)
    )


def summary(values: Float64, base: Float64) -> dict[str, float]:
    """The mean, and the mean difference to the base with its standard error."""
    difference = values - base
    return {
        "mean": float(values.mean()),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "users": len(values),
    }


# --- accuracy ---


def warm(splits: list[Split], features: ItemFeatures) -> dict[str, dict[str, float]]:
    """NDCG at 25 with features against that without, by length of the history."""
    found: dict[tuple[str, bool], list[Float64]] = {}
    for held in splits:
        for with_items in (False, True):
            model = trained(replace(held.train, features=features if with_items else None))
            model = model.with_exploration(0, 0)
            for name, one in _by_length(held):
                found.setdefault((name, with_items), []).append(evaluate(model, one).ndcg())
    names = [name for name, _ in _by_length(splits[0])]
    return {
        name: summary(np.concatenate(found[name, True]), np.concatenate(found[name, False]))
        for name in names
    }


def _by_length(held: Split) -> Iterator[tuple[str, Split]]:
    yield "whole histories", held
    for count in SHORT:
        yield f"last {count}", last(held, count)


# --- new items ---


def choose_new(data: Interactions, fold: int, newest: bool) -> npt.NDArray[np.bool_]:
    """(n_items,): a tenth of the items, at random or with the latest first interaction."""
    count = round(NEW_SHARE * len(data.item_ids))
    if newest:
        first = np.full(len(data.item_ids), np.iinfo(np.int64).max)
        np.minimum.at(first, data.items, data.timestamps)
        chosen = np.argsort(first, kind="stable")[-count:]
    else:
        chosen = np.random.default_rng(fold).choice(len(data.item_ids), count, replace=False)
    out = np.zeros(len(data.item_ids), dtype=bool)
    out[chosen] = True
    return out


def new_items(
    data: Interactions, numbers: list[int], features: ItemFeatures, newest: bool
) -> dict[str, dict[str, float]]:
    """How new items are ordered, and what they cost the other items in the lists."""
    orders: dict[str, list[Float64]] = {}
    lists: dict[tuple[str, float], list[Float64]] = {}
    shown: dict[float, list[float]] = {}
    every = folds(data, 10)
    for number in numbers:
        held, is_new = every[number], choose_new(data, number, newest)
        model = trained(replace(without(held.train, is_new), features=features))
        model = model.with_exploration(1.0, np.inf)
        for name, values in _orders(model, held, is_new, features, number).items():
            orders.setdefault(name, []).append(values)
        hidden = replace(held, inputs=without(held.inputs, is_new))
        others = replace(hidden, truth=without(held.truth, is_new))
        for weight in (NONE, *WEIGHTS):
            exploring = model.with_exploration(weight, np.inf)
            for truth, one in ((OTHERS, others), (ALL, hidden)):
                found = evaluate(exploring, one)
                lists.setdefault((truth, weight), []).append(found.ndcg())
            is_shown = found.recommended >= len(model.popularity)
            shown.setdefault(weight, []).append(float(is_shown.sum(axis=1).mean()))
    content = np.concatenate(orders["cosine of features"])
    out = {f"order: {name}": summary(np.concatenate(v), content) for name, v in orders.items()}
    for truth in (OTHERS, ALL):
        for weight in (NONE, *WEIGHTS):
            base, ours = (np.concatenate(lists[truth, each]) for each in (NONE, weight))
            row = summary(ours, base) | {"new_in_a_list": float(np.mean(shown[weight]))}
            out[f"lists, {truth} relevant, explorationWeight {weight:g}"] = row
    return out


def _orders(
    model: BlendModel,
    held: Split,
    is_new: npt.NDArray[np.bool_],
    features: ItemFeatures,
    number: int,
) -> dict[str, Float64]:
    """NDCG at DEPTH of each order of the new items, for users who had one."""
    n, data = len(model.popularity), held.inputs
    ids = model.item_ids[n:]
    chosen = np.isin(ids, data.item_ids[is_new].astype(object))
    new = np.flatnonzero(chosen)
    truth = np.zeros((len(held.users), len(new)), dtype=bool)
    column = find_positions(ids[new], data.item_ids)
    for part in (held.inputs, held.truth):
        rows = part.filter(is_new[part.items] & (column[part.items] >= 0))
        truth[np.searchsorted(held.users, rows.users), column[rows.items]] = True
    history = Histories(without(data, is_new), model.item_ids).of_users(held.users)
    some = truth.any(axis=1) & (history.lengths > 0)
    matrix = features.select_rows(find_positions(features.item_ids, model.item_ids))
    cosine = np.asarray((history.recency_weights(0.3) @ matrix @ matrix[n:].T).todense())
    scores = {
        "ours": model.score(history)[:, n:][:, new],
        "cosine of features": cosine[:, new],
        "random": np.random.default_rng(number).random(truth.shape, dtype=np.float32),
    }
    out = {}
    for name, of_items in scores.items():
        best = top_k(np.ascontiguousarray(of_items[some]), DEPTH)
        hits = np.take_along_axis(truth[some], np.maximum(best, 0), axis=1) & (best >= 0)
        out[name] = ndcg(hits, truth[some].sum(axis=1))
    return out


def lines(rows: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """Rows of a table."""
    return [
        {
            "": name,
            "NDCG": f"{row['mean']:.4f}",
            "difference": f"{row['difference']:+.4f}",
            "± SE": f"{row['standard_error']:.4f}",
            "users": f"{row['users']:g}",
            "new in a list": f"{row['new_in_a_list']:.2f}" if "new_in_a_list" in row else "",
        }
        for name, row in rows.items()
    ]


def main() -> None:
    """Measure on each set of films that is present."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first of the ten folds to use")
    parser.add_argument("--only", help="one data set, by name")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=RESULTS / "metadata.json")
    args = parser.parse_args()
    shared, results = args.data.resolve(), {}
    numbers = list(range(10))[args.first : args.first + args.folds]
    for name, frame in data_sets(shared):
        if args.only not in (None, name) or (items := items_of(name, shared)) is None:
            continue
        features = read_features(FIELDS, lambda column, of=items: of.select(ITEM_ID, column))
        assert features is not None
        data = Interactions.from_frame(frame)
        splits = [folds(data, 10)[number] for number in numbers]
        thin = thinned(data)
        thin_splits = [folds(thin, 10)[number] for number in numbers]
        found = {
            "warm": warm(splits, features),
            "warm, a random tenth of each history": warm(thin_splits, features),
            "new, at random": new_items(data, numbers, features, newest=False),
            "new, the last to appear": new_items(data, numbers, features, newest=True),
        }
        results[name] = found
        for title, rows in found.items():
            print(table(f"\n{name}, {title}", lines(rows)), flush=True)
    write(args.out, {"folds": numbers, "data_sets": results})


if __name__ == "__main__":
    main()
