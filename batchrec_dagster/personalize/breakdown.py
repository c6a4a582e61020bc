"""A model's quality in parts: by length of list, by columns of users, by categories of items.

The embedded engine adds it to GetSolutionMetrics, in a header, if the request asks for it. Amazon
Personalize gives the means over all tested users alone, so there is none for a model trained there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from batchrec_dagster.personalize.evidence import BREAKDOWN_HEADER, MetricEstimate

# How many columns of users, and how many categories of items, it has: the first ones of the schema.
# With the limits below, the header stays within what HTTP clients take.
MOST_COLUMNS = 5
# How many values of a column stand alone: those of most tested users or choices. All others are one
# group.
MOST_VALUES = 8
LONGEST_VALUE = 40


@dataclass(frozen=True)
class ComparedEstimate:
    """A metric of the model, that of the most popular items for the same users, and the lead."""

    model: MetricEstimate
    popular: MetricEstimate
    difference: MetricEstimate
    """By how much the model's is higher."""

    def to_json(self) -> list[list[float]]:
        """The three estimates."""
        return [_write_estimate(part) for part in (self.model, self.popular, self.difference)]

    @classmethod
    def from_json(cls, values: Sequence[Sequence[float]]) -> Self:
        """What `to_json` returned."""
        return cls(*(MetricEstimate(*part) for part in values))


@dataclass(frozen=True)
class DepthQuality:
    """The quality of the first items of the lists."""

    depth: int
    """How many items."""
    ndcg: ComparedEstimate
    precision: ComparedEstimate
    hit_rate: ComparedEstimate
    """The share of the users who chose one of these items."""


@dataclass(frozen=True)
class GroupQuality:
    """The quality for users with a value, or of items with one."""

    value: str | None
    """None for all values that do not stand alone."""
    users: int
    """How many tested users count."""
    metric: ComparedEstimate
    """NDCG at 25 for users; recall at 25 for items."""


@dataclass(frozen=True)
class ColumnQuality:
    """The quality by the values of a column."""

    column: str
    groups: Sequence[GroupQuality]
    """The largest comes first, and the one of all other values last."""


@dataclass(frozen=True)
class Breakdown:
    """A model's quality in parts."""

    depths: Sequence[DepthQuality]
    users: Sequence[ColumnQuality] | None
    """NDCG at 25 by columns of the Users dataset; None if an older batchrec trained the model."""
    items: Sequence[ColumnQuality] | None
    """By categories of the Items dataset, the share of the items that users chose which was in
    their lists of 25. None as for `users`."""

    def to_json(self) -> dict[str, Any]:
        """What a header, a record and an edition's metadata have of it."""
        values: dict[str, Any] = {
            "depths": [
                [
                    part.depth,
                    part.ndcg.to_json(),
                    part.precision.to_json(),
                    part.hit_rate.to_json(),
                ]
                for part in self.depths
            ]
        }
        if self.users is not None:
            values["users"] = _write_columns(self.users)
        if self.items is not None:
            values["items"] = _write_columns(self.items)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self | None:
        """What `to_json` returned; None for nothing."""
        if not values:
            return None

        depths = [
            DepthQuality(depth, *(ComparedEstimate.from_json(metric) for metric in metrics))
            for depth, *metrics in values["depths"]
        ]
        return cls(
            depths,
            users=_read_columns(values["users"]) if "users" in values else None,
            items=_read_columns(values["items"]) if "items" in values else None,
        )


def _write_columns(columns: Sequence[ColumnQuality]) -> list[list[Any]]:
    """The name of each column, and its groups."""
    return [
        [
            column.column,
            [[group.value, group.users, group.metric.to_json()] for group in column.groups],
        ]
        for column in columns
    ]


def _read_columns(values: Sequence[Sequence[Any]]) -> list[ColumnQuality]:
    """What `_write_columns` returned."""
    return [
        ColumnQuality(
            column,
            [
                GroupQuality(value, users, ComparedEstimate.from_json(metric))
                for value, users, metric in groups
            ],
        )
        for column, groups in values
    ]


def _write_estimate(estimate: MetricEstimate) -> list[float]:
    """The mean and, if it has one, the ends of its interval, with the decimals of all metrics."""
    return [round(number, 4) for number in (estimate.value, *(estimate.interval or ()))]


def format_header(breakdown: Breakdown) -> str:
    """The header that has the breakdown, in ASCII."""
    return json.dumps(breakdown.to_json(), separators=(",", ":"))


def read_breakdown(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The breakdown as `Breakdown.from_json` takes it; empty where the engine gave none.

    answer: that of GetSolutionMetrics.
    """
    values: dict[str, Any] = json.loads(
        answer["ResponseMetadata"]["HTTPHeaders"].get(BREAKDOWN_HEADER, "{}")
    )
    return values
