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

from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.evaluation import Split, evaluate, ndcg
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    Interactions,
    find_positions,
)
from batchrec_dagster.local_personalize.learning.item_features import ItemFeatures, read_features
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


def read_items(name: str, data_folder: Path) -> pl.DataFrame | None:
    """GENRES and YEAR of the films of a data set; None if it has no films."""
    year = pl.col("YEAR").cast(pl.Int64, strict=False)
    if name == "ml-100k":
        path = ROOT / ".batchrec" / "benchmarks" / "ml-100k" / "ml-100k.item"
        films = pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
        genres = pl.col("class:token_seq").str.replace_all(" ", "|")
        columns = films.select(ITEM_ID="item_id:token", GENRES=genres, YEAR="release_year:token")
        return columns.with_columns(year)
    if name == "ml-latest-small":
        films = pl.read_csv(data_folder / "ml-latest-small" / "movies.csv", infer_schema=False)
        year_in_title = pl.col("title").str.extract(r"\((\d{4})\)\s*$")
        return films.select(ITEM_ID="movieId", GENRES="genres", YEAR=year_in_title).with_columns(
            year
        )
    return None


def train_model(data: Interactions) -> BlendModel:
    """Our model of the interactions."""
    model = train("aws-user-personalization", data, {}).model
    assert isinstance(model, BlendModel)
    return model


def keep_last(split: Split, count: int) -> Split:
    """The split with the last interactions of each history only."""
    data = split.inputs
    places_from_end = data.starts[data.users + 1] - np.arange(len(data))
    return replace(split, inputs=data.filter(places_from_end <= count))


def thin_out(data: Interactions) -> Interactions:
    """A random tenth of the interactions."""
    return data.filter(np.random.default_rng(0).random(len(data)) < THIN)


def drop_items(data: Interactions, is_dropped: npt.NDArray[np.bool_]) -> Interactions:
    """The interactions, and the ids, without these items."""
    rows_kept = data.filter(~is_dropped[data.items])
    number = np.cumsum(~is_dropped) - 1
    return replace(
        rows_kept,
        item_ids=data.item_ids[~is_dropped],
        items=number[rows_kept.items].astype(np.int32),
    )


def summarize(values: Float64, base: Float64) -> dict[str, float]:
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
    ndcg_by_length: dict[tuple[str, bool], list[Float64]] = {}
    for split in splits:
        for has_features in (False, True):
            model = train_model(replace(split.train, features=features if has_features else None))
            model = model.with_exploration(0, 0)
            for name, short_split in _cut_by_length(split):
                ndcg_by_length.setdefault((name, has_features), []).append(
                    evaluate(model, short_split).ndcg()
                )
    names = [name for name, _ in _cut_by_length(splits[0])]
    return {
        name: summarize(
            np.concatenate(ndcg_by_length[name, True]), np.concatenate(ndcg_by_length[name, False])
        )
        for name in names
    }


def _cut_by_length(split: Split) -> Iterator[tuple[str, Split]]:
    yield "whole histories", split
    for count in SHORT:
        yield f"last {count}", keep_last(split, count)


# --- new items ---


def choose_new(data: Interactions, fold: int, newest: bool) -> npt.NDArray[np.bool_]:
    """(n_items,): a tenth of the items, at random or with the latest first interaction."""
    count = round(NEW_SHARE * len(data.item_ids))
    if newest:
        first = np.full(len(data.item_ids), np.iinfo(np.int64).max)
        np.minimum.at(first, data.items, data.timestamps)
        newest_items = np.argsort(first, kind="stable")[-count:]
    else:
        newest_items = np.random.default_rng(fold).choice(len(data.item_ids), count, replace=False)
    out = np.zeros(len(data.item_ids), dtype=bool)
    out[newest_items] = True
    return out


def measure_new_items(
    data: Interactions, numbers: list[int], features: ItemFeatures, newest: bool
) -> dict[str, dict[str, float]]:
    """How new items are ordered, and what they cost the other items in the lists."""
    orders: dict[str, list[Float64]] = {}
    lists: dict[tuple[str, float], list[Float64]] = {}
    new_items_shown: dict[float, list[float]] = {}
    splits = folds(data, 10)
    for number in numbers:
        split = splits[number]
        is_new = choose_new(data, number, newest)
        model = train_model(replace(drop_items(split.train, is_new), features=features))
        model = model.with_exploration(1.0, np.inf)
        for name, values in _measure_orders(model, split, is_new, features, number).items():
            orders.setdefault(name, []).append(values)
        split_without_new = replace(split, inputs=drop_items(split.inputs, is_new))
        split_of_others = replace(split_without_new, truth=drop_items(split.truth, is_new))
        for weight in (NONE, *WEIGHTS):
            exploring = model.with_exploration(weight, np.inf)
            for truth, relevant_split in ((OTHERS, split_of_others), (ALL, split_without_new)):
                evaluation = evaluate(exploring, relevant_split)
                lists.setdefault((truth, weight), []).append(evaluation.ndcg())
            is_shown = evaluation.recommended >= len(model.popularity)
            new_items_shown.setdefault(weight, []).append(float(is_shown.sum(axis=1).mean()))
    content = np.concatenate(orders["cosine of features"])
    out = {f"order: {name}": summarize(np.concatenate(v), content) for name, v in orders.items()}
    for truth in (OTHERS, ALL):
        for weight in (NONE, *WEIGHTS):
            base, ndcg = (
                np.concatenate(lists[truth, other_weight]) for other_weight in (NONE, weight)
            )
            row = summarize(ndcg, base) | {"new_in_a_list": float(np.mean(new_items_shown[weight]))}
            out[f"lists, {truth} relevant, explorationWeight {weight:g}"] = row
    return out


def _measure_orders(
    model: BlendModel,
    split: Split,
    is_new: npt.NDArray[np.bool_],
    features: ItemFeatures,
    number: int,
) -> dict[str, Float64]:
    """NDCG at DEPTH of each order of the new items, for users who had one."""
    n, data = len(model.popularity), split.inputs
    ids = model.item_ids[n:]
    is_new_candidate = np.isin(ids, data.item_ids[is_new].astype(object))
    new = np.flatnonzero(is_new_candidate)
    truth = np.zeros((len(split.users), len(new)), dtype=bool)
    column = find_positions(ids[new], data.item_ids)
    for part in (split.inputs, split.truth):
        rows = part.filter(is_new[part.items] & (column[part.items] >= 0))
        truth[np.searchsorted(split.users, rows.users), column[rows.items]] = True
    history = Histories(drop_items(data, is_new), model.item_ids).of_users(split.users)
    has_both = truth.any(axis=1) & (history.lengths > 0)
    matrix = features.select_rows(find_positions(features.item_ids, model.item_ids))
    cosine = np.asarray((history.recency_weights(0.3) @ matrix @ matrix[n:].T).todense())
    scores = {
        "ours": model.score(history)[:, n:][:, new],
        "cosine of features": cosine[:, new],
        "random": np.random.default_rng(number).random(truth.shape, dtype=np.float32),
    }
    out = {}
    for name, item_scores in scores.items():
        best = top_k(np.ascontiguousarray(item_scores[has_both]), DEPTH)
        hits = np.take_along_axis(truth[has_both], np.maximum(best, 0), axis=1) & (best >= 0)
        out[name] = ndcg(hits, truth[has_both].sum(axis=1))
    return out


def format_rows(rows: dict[str, dict[str, float]]) -> list[dict[str, str]]:
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
    data_folder, results = args.data.resolve(), {}
    numbers = list(range(10))[args.first : args.first + args.folds]
    for name, frame in data_sets(data_folder):
        if args.only not in (None, name) or (items := read_items(name, data_folder)) is None:
            continue
        features = read_features(
            FIELDS, lambda column, item_frame=items: item_frame.select(ITEM_ID, column)
        )
        assert features is not None
        data = Interactions.from_frame(frame)
        splits = [folds(data, 10)[number] for number in numbers]
        thin = thin_out(data)
        thin_splits = [folds(thin, 10)[number] for number in numbers]
        results_by_name = {
            "warm": warm(splits, features),
            "warm, a random tenth of each history": warm(thin_splits, features),
            "new, at random": measure_new_items(data, numbers, features, newest=False),
            "new, the last to appear": measure_new_items(data, numbers, features, newest=True),
        }
        results[name] = results_by_name
        for title, rows in results_by_name.items():
            print(table(f"\n{name}, {title}", format_rows(rows)), flush=True)
    write(args.out, {"folds": numbers, "data_sets": results})


if __name__ == "__main__":
    main()
