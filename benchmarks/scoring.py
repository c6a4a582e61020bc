"""Speed of top-25 lists, compared with implicit's topk and with NumPy's argpartition.

    python benchmarks/scoring.py [--users 20000] [--items 27000] [--factors 64] [--rounds 5]

All contenders use the same factors and leave out the same seen items. They take turns in each
round, so that other load on the machine slows all of them. The best round of each contender counts.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from implicit.cpu.topk import topk
from report import RESULTS, table, write
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.engine.parallel import (
    count_cores,
    one_blas_thread,
    ordered_map,
)
from batchrec_dagster.local_personalize.engine.serve import split_requests, top_k

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

OURS, ARGPARTITION = "ours", "ours with np.argpartition"
IMPLICIT, PRODUCT = "implicit topk", "matrix product only"
K = 25
SEEN = 144  # seen items per user, as in 20 million interactions of 138,000 users


def generate(count: int, n_items: int, factors: int) -> tuple[Float32, Float32, csr_matrix]:
    """Return factors of users and items, and the items that each user has seen."""
    rng = np.random.default_rng(0)
    users = rng.normal(0, 0.1, (count, factors)).astype(np.float32)
    items = rng.normal(0, 1, (n_items, factors)).astype(np.float32)
    seen_per_user = min(SEEN, n_items // 2)
    seen_items = np.sort(rng.integers(0, n_items, (count, seen_per_user)), axis=1).astype(np.int32)
    weights = np.ones(seen_items.size, dtype=np.float32)
    ends = np.arange(0, seen_items.size + 1, seen_per_user)
    return users, items, csr_matrix((weights, seen_items.ravel(), ends), shape=(count, n_items))


def score_by_product(
    users: Float32, items: Float32, seen_matrix: csr_matrix, choose: Callable[[Float32, int], Int32]
) -> Int32:
    """Return the top k like `serve.recommend`: score a chunk, mask seen items, choose."""
    columns = np.ascontiguousarray(items.T)  # FactorScorer multiplies by such a copy, too
    parts = split_requests(len(users), len(items))
    threads_own = threading.local()

    def score_chunk(part: slice) -> Int32:
        if not hasattr(threads_own, "scores"):
            threads_own.scores = np.empty((parts[0].stop, len(items)), np.float32)
        scores = threads_own.scores[: part.stop - part.start]
        np.matmul(users[part], columns, out=scores)
        seen = seen_matrix[part].tocoo()
        scores[seen.row, seen.col] = -np.inf
        return choose(scores, K)

    return np.concatenate(list(ordered_map(score_chunk, parts)))


def argpartition(scores: Float32, k: int) -> Int32:
    """Return the result of `serve.top_k`, except for the order of equal scores."""
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1).astype(np.int32)


def run_implicit(users: Float32, items: Float32, seen_matrix: csr_matrix) -> Int32:
    """Return the top k by implicit's `topk`, called as in implicit's `recommend`."""
    with one_blas_thread():  # implicit runs its own threads and asks for a single BLAS thread
        best_items, _ = topk(
            items, users, K, filter_query_items=seen_matrix, num_threads=count_cores()
        )
    return np.asarray(best_items)


def multiply(users: Float32, items: Float32, seen_matrix: csr_matrix) -> None:
    """Multiply users and items, which is the lower bound for scoring all items."""
    columns = np.ascontiguousarray(items.T)
    parts = split_requests(len(users), len(items))
    for _ in ordered_map(lambda part: (users[part] @ columns).shape, parts):
        pass


def main() -> None:
    """Measure and compare the contenders, and print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=27_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "scoring.json")
    args = parser.parse_args()
    data = generate(args.users, args.items, args.factors)
    methods: dict[str, Callable[[Float32, Float32, csr_matrix], Int32 | None]] = {
        OURS: partial(score_by_product, choose=top_k),
        ARGPARTITION: partial(score_by_product, choose=argpartition),
        IMPLICIT: run_implicit,
        PRODUCT: multiply,
    }
    seconds, cpu = dict.fromkeys(methods, np.inf), dict.fromkeys(methods, np.inf)
    best_by_way: dict[str, Any] = {}
    for _ in range(args.rounds):
        for name, method in methods.items():
            began = time.perf_counter()
            cpu_began = time.process_time()
            best_by_way[name] = method(*data)
            seconds[name] = min(seconds[name], time.perf_counter() - began)
            cpu[name] = min(cpu[name], time.process_time() - cpu_began)
    rates = {name: args.users / seconds_taken for name, seconds_taken in seconds.items()}
    share_equal = float(np.mean(np.sort(best_by_way[OURS]) == np.sort(best_by_way[IMPLICIT])))
    rows = [
        {
            "": name,
            "users/s": f"{rate:,.0f}",
            "core µs/user": f"{cpu[name] / args.users * 1e6:.0f}",
            "vs implicit": f"{rate / rates[IMPLICIT]:.2f}",
            "vs product": f"{rate / rates[PRODUCT]:.2f}",
        }
        for name, rate in rates.items()
    ]
    shape = f"{args.users:,} users, {args.items:,} items, {args.factors} factors"
    print(table(f"Top {K} of all unseen items: {shape}, {count_cores()} cores", rows))
    print(
        f"the same item in {share_equal:.4%} of the positions (the rest are ties in the last bit)"
    )
    write(
        args.out,
        {
            "users": args.users,
            "items": args.items,
            "factors": args.factors,
            "k": K,
            "users_a_second": rates,
            "core_seconds": cpu,
            "ours_over_implicit": rates[OURS] / rates[IMPLICIT],
            "same_items": share_equal,
        },
    )


if __name__ == "__main__":
    main()
