"""The quality in parts: by length of list, by columns of users, by categories of items.

All intervals are 95% percentile bootstrap intervals that resample users, like those of evidence.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from batchrec_dagster.personalize.breakdown import (
    Breakdown,
    ColumnQuality,
    ComparedEstimate,
    DepthQuality,
    GroupQuality,
)
from batchrec_dagster.personalize.evidence import MetricEstimate

from .choice_attributes import ColumnValues
from .choices import EventChoices, ListPlaces, MarkedHits
from .evaluation import DEPTHS, Bool, ndcg, precision
from .evidence import BOUNDS, MIN_USERS, resample_means
from .interactions import Float64


def measure_breakdown(choices: EventChoices, is_counted: Bool) -> Breakdown:
    """The quality in parts of a model, by what its tested users chose.

    is_counted: (choices,) whether a choice counts.
    """
    places, attributes = choices.places, choices.attributes
    marked = places.mark_hits(is_counted)
    depths = _measure_depths(marked)
    if attributes is None:
        return Breakdown(depths, users=None, items=None)
    users = [
        ColumnQuality(values.column, _sort_groups(_measure_users(marked, values)))
        for values in attributes.users
    ]
    items = [
        ColumnQuality(values.column, _sort_groups(_measure_items(places, is_counted, values)))
        for values in attributes.items
    ]
    return Breakdown(depths, users, items)


def _sort_groups(groups: Iterable[GroupQuality]) -> list[GroupQuality]:
    """The groups with the most users first, and the one of all other values last."""
    return sorted(groups, key=lambda group: (group.value is None, -group.users))


def _measure_depths(marked: MarkedHits) -> list[DepthQuality]:
    """The metrics of the first 5, 10 and 25 items of the lists; none without users."""
    if not len(marked.users):
        return []
    values = [
        metric
        for depth in DEPTHS
        for metric in zip(
            _measure_lists(marked, marked.hits, depth),
            _measure_lists(marked, marked.popular_hits, depth),
            strict=True,
        )
    ]
    # All metrics share one bootstrap, so that each sample of users is drawn once.
    estimates = _compare([np.column_stack(pair) for pair in values])
    return [DepthQuality(depth, *(next(estimates) for _ in range(3))) for depth in DEPTHS]


def _measure_lists(marked: MarkedHits, hits: Bool, depth: int) -> list[Float64]:
    """(users,) each: NDCG, precision, and whether there is a hit among the first items."""
    first_hits = hits[:, :depth]
    return [
        ndcg(first_hits, marked.relevant),
        precision(first_hits),
        np.asarray(first_hits.any(axis=1), np.float64),
    ]


def _measure_users(marked: MarkedHits, values: ColumnValues) -> Iterator[GroupQuality]:
    """NDCG at 25 for the users with each value; values of no counted user are left out."""
    pair = np.column_stack(
        [ndcg(marked.hits, marked.relevant), ndcg(marked.popular_hits, marked.relevant)]
    )
    for code, name in enumerate([*values.names, None]):
        users = pair[np.isin(marked.users, values.rows[values.codes == code])]
        if len(users):
            yield GroupQuality(name, len(users), *_compare([users]))


def _measure_items(
    places: ListPlaces, is_counted: Bool, values: ColumnValues
) -> Iterator[GroupQuality]:
    """Recall at 25 of the choices of items with each value: hits over choices, of all users."""
    for code, name in enumerate([*values.names, None]):
        rows = values.rows[values.codes == code]
        rows = rows[is_counted[rows]]
        users, numbers = np.unique(places.users[rows], return_inverse=True)
        if not len(users):
            continue
        counts = np.column_stack(
            [
                np.bincount(numbers, weights=weights, minlength=len(users))
                for weights in (
                    places.places[rows] > 0,
                    places.popular_places[rows] > 0,
                    np.ones(len(rows)),
                )
            ]
        )
        yield GroupQuality(name, len(users), _compare_recalls(counts.astype(np.float64)))


def _compare(pairs: list[Float64]) -> Iterator[ComparedEstimate]:
    """The means of the model's and of popular items' values, and of their difference.

    pairs: (users, 2) each: the values of the model and of popular items.
    """
    values = np.concatenate(pairs, axis=1)
    bounds = None
    if len(values) >= MIN_USERS:
        bounds = np.quantile(_add_differences(resample_means(values)), BOUNDS, axis=0)
    (means,) = _add_differences(values.mean(axis=0, keepdims=True))
    estimates = _list_estimates(means, bounds)
    for _ in pairs:
        yield ComparedEstimate(*(next(estimates) for _ in range(3)))


def _compare_recalls(counts: Float64) -> ComparedEstimate:
    """The model's recall, that of popular items, and their difference.

    counts: (users, 3) hits of the model, hits of popular items, and choices, at least 1.
    """

    def divide(means: Float64) -> Float64:
        """(rows, 3): the recalls and their difference, by the means of the counts."""
        return _add_differences(means[:, :2] / means[:, 2:])

    bounds = None
    if len(counts) >= MIN_USERS:
        bounds = np.quantile(divide(resample_means(counts)), BOUNDS, axis=0)
    (recalls,) = divide(counts.mean(axis=0, keepdims=True))
    return ComparedEstimate(*_list_estimates(recalls, bounds))


def _add_differences(means: Float64) -> Float64:
    """(rows, 3 * pairs): the means with a third column after each pair, the first less the second.

    means: (rows, 2 * pairs)
    """
    first, second = means[:, ::2], means[:, 1::2]
    return np.stack([first, second, first - second], axis=2).reshape(len(means), -1)


def _list_estimates(means: Float64, bounds: Float64 | None) -> Iterator[MetricEstimate]:
    """An estimate for each column.

    There is no interval where all users have the same value, such as no hit, because resampling
    says nothing then.

    means: (columns,)
    bounds: (2, columns); None without intervals.
    """
    for number, mean in enumerate(means.tolist()):
        if bounds is None or bounds[0, number] == bounds[1, number]:
            yield MetricEstimate(mean)
        else:
            yield MetricEstimate(mean, float(bounds[0, number]), float(bounds[1, number]))
