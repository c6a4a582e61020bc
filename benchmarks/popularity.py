"""Which window of days makes popular items the best, and how well they do as Personalize measures.

    python benchmarks/popularity.py [--cutoffs 6 --cutoffs 10 --cutoffs 24] [--out popularity.json]

For MovieLens latest small (ratings of 3.5 and more) and the sample interactions of Amazon's, which
are read from ../shared/data, for the example shop, and for the generated news of `shapes.py`: the
NDCG@25 of the most popular items of each window for what people chose in the days after a cutoff,
over so many cutoffs, and which window `popularity.days: auto` takes. Then NDCG@25 on a tenth of the
users, whose newest tenth of interactions is held out, of that window and of all time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
from report import RESULTS, ROOT, table, write
from shapes import generate_news

from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.samples.shop import generate_shop
from batchrec_dagster.steps import popularity_window
from batchrec_dagster.steps.measure_popularity import measure_popularity
from batchrec_dagster.steps.popularity_window import WINDOWS, choose_window
from batchrec_dagster.steps.sampled_interactions import sample_interactions

DATA = ROOT.parent / "shared" / "data"
IDS = {"USER_ID": pl.String, "ITEM_ID": pl.String}


def read_data() -> Iterator[tuple[str, pl.DataFrame, dict[str, float]]]:
    """The name, the interactions and the event weights of each data set that is here."""
    ratings = DATA / "ml-latest-small" / "ratings.csv"
    if ratings.exists():
        rows = pl.read_csv(ratings).filter(pl.col("rating") >= 3.5)
        names = {"userId": "USER_ID", "movieId": "ITEM_ID", "timestamp": "TIMESTAMP"}
        yield "MovieLens", rows.rename(names).drop("rating").cast(IDS), {}
    interactions = DATA / "personalize-interactions" / "interactions.csv"
    if interactions.exists():
        yield "Personalize's sample", pl.read_csv(interactions).cast(IDS), {}
    rows = generate_shop().orders_and_clicks.select(
        USER_ID="customer_id",
        ITEM_ID="sku",
        TIMESTAMP=pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.epoch("s"),
        EVENT_TYPE="event",
    )
    yield "example shop, all events", rows, {}
    yield "example shop, purchases", rows, {"purchase": 1.0}
    yield "news", generate_news(), {}


def measure(rows: pl.DataFrame, weights: dict[str, float], cutoffs: int) -> dict[str, Any]:
    """The choice with so many cutoffs, and the CPU seconds that it took."""
    start = time.process_time()
    with patch.object(popularity_window, "MOST_CUTOFFS", cutoffs):
        choice = choose_window(sample_interactions(rows.lazy(), weights), exclude_seen=True)
    seconds = time.process_time() - start
    return {**choice.to_json(), "days": choice.days, "cutoffs": cutoffs, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cutoffs", type=int, action="append")
    parser.add_argument("--out", type=Path, default=RESULTS / "popularity.json")
    options = parser.parse_args()
    chosen, facts = [], []
    names = ["all" if days is None else f"{days}" for days in WINDOWS]
    for name, rows, weights in read_data():
        for cutoffs in options.cutoffs or (6, 10, 24):
            choice = measure(rows, weights, cutoffs)
            facts.append({"data": name, **choice})
            ndcg = choice["ndcg_by_days"]
            chosen.append(
                {
                    "data": f"{name}, {choice['lists_compared']:,} lists",
                    "cutoffs": f"{cutoffs}",
                    **{days: f"{ndcg[days]:.3f}" if days in ndcg else "" for days in names},
                    "auto": f"{choice['days'] or 'all'}",
                    "CPU s": f"{choice['seconds']:.2f}",
                }
            )
    print(table("NDCG@25 of the most popular items of the last days", chosen))
    measured = []
    for name, rows, weights in read_data():
        start = time.process_time()
        result = measure_popularity(rows.lazy(), Popularity(events=weights), exclude_seen=True)
        seconds = time.process_time() - start
        if result is None:
            continue
        facts.append({"data": name, **result.to_json(), "seconds": seconds})
        measured.append(
            {
                "data": name,
                "users": f"{result.users:,}",
                "auto": f"{result.days or 'all'}",
                "NDCG@25": f"{result.ndcg:.4f}",
                "all time": f"{result.all_time_ndcg:.4f}",
                "CPU s": f"{seconds:.2f}",
            }
        )
    print(table("\nMeasured as Personalize measures", measured))
    write(options.out, {"popularity": facts})


if __name__ == "__main__":
    main()
