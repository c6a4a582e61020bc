"""What each part of the model takes to fit, among them EASE on ten thousand items.

    python benchmarks/parts.py [--rows 17000000] [--users 120000] [--items 10000] [--out parts.json]

The interactions are generated. Peak memory is the process's so far, the interactions among it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from generated import Size, blocks
from report import RESULTS, table, write

from batchrec_dagster.local_personalize.learning import cooccurrence, ease, factorization
from batchrec_dagster.local_personalize.learning.fit_components import (
    KEPT_FOLLOWERS,
    KEPT_WEIGHTS,
    REGULARIZATION,
)
from batchrec_dagster.local_personalize.learning.histories import Histories
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.popularity import popular_first


def main() -> None:
    """Fit each part once, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=17_000_000)
    parser.add_argument("--users", type=int, default=120_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "parts.json")
    asked = parser.parse_args()
    data = Interactions.from_frame(pl.concat(blocks(Size(asked.rows, asked.users, asked.items))))
    item_ids = data.item_ids[popular_first(data)]
    history = Histories(data, item_ids).of(np.unique(data.users))
    matrix = history.weights(0.0)
    n_items = matrix.shape[1]
    parts: dict[str, Callable[[], object]] = {
        f"EASE, all {n_items:,} items": lambda: ease.fit(
            matrix, core=n_items, regularization=REGULARIZATION, kept=KEPT_WEIGHTS
        ),
        "co-occurrence": lambda: cooccurrence.fit(history, kept=KEPT_FOLLOWERS),
        f"iALS, {factorization.DIMENSION} factors": lambda: factorization.fit(matrix, seed=0),
    }
    found = {}
    for name, fit in parts.items():
        began, used = time.perf_counter(), time.process_time()
        fit()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[name] = {
            "seconds": time.perf_counter() - began,
            "core_seconds": time.process_time() - used,
            "peak_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9,
        }
    rows = [
        {
            "part": name,
            "seconds": f"{facts['seconds']:.1f}",
            "core seconds": f"{facts['core_seconds']:.1f}",
            "peak GB": f"{facts['peak_gb']:.2f}",
        }
        for name, facts in found.items()
    ]
    print(table(f"Fitting on {matrix.nnz:,} interactions", rows))
    shape = {"interactions": int(matrix.nnz), "users": matrix.shape[0], "items": n_items}
    write(asked.out, {**shape, "parts": found})


if __name__ == "__main__":
    main()
