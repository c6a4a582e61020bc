"""What trainingMode UPDATE saves, and what it loses: beside a full training on the same data.

    python benchmarks/updating.py [--interactions 855000] [--growth 0.1]

The newest of generated interactions come after the first training. Of all users a tenth is kept
from every training, and their newest are looked for: by the model before, updated, trained in full.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from generated import Size, blocks
from report import RESULTS, table, write

from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model import UserModel
from batchrec_dagster.local_personalize.learning.split import split
from batchrec_dagster.local_personalize.learning.training import train

RECIPE = "aws-user-personalization"


def only(data: Interactions, rows: np.ndarray) -> Interactions:
    """The interactions of a mask, without ids that have none."""
    kept = data.of(rows)
    return Interactions.from_frame(
        pl.DataFrame(
            {
                "USER_ID": pl.Series(kept.user_ids[kept.users].tolist(), dtype=pl.String),
                "ITEM_ID": pl.Series(kept.item_ids[kept.items].tolist(), dtype=pl.String),
                "TIMESTAMP": kept.timestamps,
            }
        )
    )


def main() -> None:
    """Train, grow, update, train in full; print and write what each took and found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--interactions", type=int, default=855_000)
    parser.add_argument("--users", type=int, default=2_113)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--growth", type=float, default=0.1, help="share that is new")
    parser.add_argument("--out", type=Path, default=RESULTS / "updating.json")
    asked = parser.parse_args()
    size = Size(asked.interactions, asked.users, asked.items)
    held_out = split(Interactions.from_frame(pl.concat(blocks(size))), seed=9)
    assert held_out is not None
    now = held_out.train
    old = now.timestamps < np.quantile(now.timestamps, 1 - asked.growth)
    everything = only(now, np.ones(len(now), bool))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, data, previous in (
            ("before", only(now, old), None),
            ("updated", everything, Path(folder) / "before"),
            ("trained in full", everything, None),
        ):
            began = time.perf_counter()
            model = train(RECIPE, data, {}, previous=previous).model
            seconds = time.perf_counter() - began
            assert isinstance(model, UserModel)
            if what == "before":
                model.save(Path(folder) / what)
            ndcg = float(evaluate(model, held_out).ndcg().mean())
            rows.append(
                {"model": what, "interactions": len(data), "seconds": seconds, "ndcg": ndcg}
            )
    cells = [
        {
            "model": str(row["model"]),
            "interactions": f"{row['interactions']:,}",
            "seconds": f"{row['seconds']:.2f}",
            "NDCG@25": f"{row['ndcg']:.4f}",
        }
        for row in rows
    ]
    print(table("an update beside a full training", cells))
    write(asked.out, {"rows": rows, "update_over_full": rows[1]["seconds"] / rows[2]["seconds"]})


if __name__ == "__main__":
    main()
