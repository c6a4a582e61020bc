"""Time and memory to fit each component of the blend, on generated interactions.

    python benchmarks/components.py [--rows 17000000] [--users 120000] [--items 10000] [--out FILE]

Peak memory is that of the process so far, with the interactions.
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
from generated import Size, generate_blocks
from report import RESULTS, table, write

from batchrec_dagster.local_personalize.learning import components, cooccurrence
from batchrec_dagster.local_personalize.learning.fit_components import COOC_NEIGHBORS
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    Interactions,
    order_by_popularity,
)


def main() -> None:
    """Fit each component once; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=17_000_000)
    parser.add_argument("--users", type=int, default=120_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "components.json")
    args = parser.parse_args()
    data = Interactions.from_frame(
        pl.concat(generate_blocks(Size(args.rows, args.users, args.items)))
    )
    item_ids = data.item_ids[order_by_popularity(data)]
    history = Histories(data, item_ids).of_users(np.unique(data.users))
    matrix = history.recency_weights(0.0)
    fits: dict[str, Callable[[], object]] = {
        "co-occurrence": lambda: cooccurrence.fit(history, neighbors=COOC_NEIGHBORS),
        f"iALS, {components.ALS_FACTORS} factors": lambda: components.fit_factors(matrix, seed=0),
    }
    results = {}
    for name, fit in fits.items():
        began = time.perf_counter()
        cpu_began = time.process_time()
        fit()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results[name] = {
            "seconds": time.perf_counter() - began,
            "core_seconds": time.process_time() - cpu_began,
            "peak_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9,
        }
    rows = [
        {
            "component": name,
            "seconds": f"{facts['seconds']:.1f}",
            "core seconds": f"{facts['core_seconds']:.1f}",
            "peak GB": f"{facts['peak_gb']:.2f}",
        }
        for name, facts in results.items()
    ]
    print(table(f"Fitting on {matrix.nnz:,} interactions", rows))
    shape = {"interactions": int(matrix.nnz), "users": matrix.shape[0], "items": matrix.shape[1]}
    write(args.out, {**shape, "components": results})


if __name__ == "__main__":
    main()
