"""How sure the metrics are: NDCG with bootstrap intervals, and compared with popularity's."""

from __future__ import annotations

import numpy as np

from batchrec_dagster.personalize.measurements import ALL

from .interactions import Float64, Int64
from .threads import single_threaded_blas

# Groups of users by the interactions that the model saw of them: the least number, and the label.
LENGTHS = ((1, "1-4"), (5, "5-19"), (20, "20+"))
# Fewer users have no interval, because the bootstrap of so few is too narrow.
MIN_USERS = 10
RESAMPLES = 1000
DRAWN_AT_ONCE = 1 << 19  # users, in all resamples that are drawn at once
BOUNDS = (0.025, 0.975)


def summarize_evidence(
    model_ndcg: Float64, popular_ndcg: Float64, lengths: Int64
) -> dict[str, float]:
    """The evidence for the metrics, under `GROUP/NAME`.

    GROUP is `all` or a label of LENGTHS. NAME is one of these:

    - `users`: how many were tested. If none were, `all` has 0 users, and means of 0.
    - `ndcg`, `popular`, `difference`: the mean NDCG at 25 of the model and of the most popular
      items for the same users, and how much more the model's is.
    - each of these three with `_low` and `_high`, where users are enough: the bounds of its 95 %
      percentile bootstrap interval (Efron, "Bootstrap methods: another look at the jackknife",
      1979).

    model_ndcg, popular_ndcg: (users,) NDCG at 25 of each tested user.
    lengths: (users,) how many interactions the model saw of each.
    """
    values = np.column_stack([model_ndcg, popular_ndcg, model_ndcg - popular_ndcg])
    lower = [least for least, _ in LENGTHS]
    group = np.searchsorted(lower, lengths, side="right") - 1
    evidence = _summarize_group(ALL, values)
    for number, (_, label) in enumerate(LENGTHS):
        group_values = values[group == number]
        if len(group_values):
            evidence |= _summarize_group(label, group_values)
    return evidence


def _summarize_group(label: str, values: Float64) -> dict[str, float]:
    """The evidence of a group of users, see `summarize_evidence`.

    values: (users, 3) NDCG of the model and of popularity, and their difference.
    """
    names = [f"{label}/{name}" for name in ("ndcg", "popular", "difference")]
    means = values.sum(axis=0) / max(1, len(values))
    numbers = {f"{label}/users": float(len(values)), **_name_values(names, means)}
    if len(values) >= MIN_USERS:
        low, high = bootstrap_interval(values)
        numbers |= _name_values([f"{name}_low" for name in names], low)
        numbers |= _name_values([f"{name}_high" for name in names], high)
    return numbers


def _name_values(names: list[str], values: Float64) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def bootstrap_interval(values: Float64) -> Float64:
    """(2, columns): the bounds of the means of the values, resampled by user.

    values: (users, columns).
    """
    return np.asarray(np.quantile(resample_means(values), BOUNDS, axis=0))


def resample_means(values: Float64) -> Float64:
    """(RESAMPLES, columns): the means of the values of users who were drawn with replacement.

    values: (users, columns).
    """
    rng, size = np.random.default_rng(0), len(values)
    step = max(1, DRAWN_AT_ONCE // size)
    sums = []
    with single_threaded_blas():
        for start in range(0, RESAMPLES, step):
            drawn_users = rng.integers(size, size=(min(step, RESAMPLES - start), size))
            # How often each user was drawn: multiplying by that is faster than copying values.
            cells = drawn_users + size * np.arange(len(drawn_users))[:, None]
            draws = np.bincount(cells.ravel(), minlength=drawn_users.size)
            draws_by_user = draws.reshape(drawn_users.shape)
            sums.append(draws_by_user.astype(np.float64) @ values)
    return np.concatenate(sums) / size
