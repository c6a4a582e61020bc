"""Compares the lists of two pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from batchrec_dagster.personalize.measurements import (
    COVERAGE,
    name_ndcg,
    read_ndcg,
    read_popular_ndcg,
)
from batchrec_dagster.reporting.editions import (
    EditionDiff,
    compare_editions,
    explain_incomparability,
)
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles


@dataclass(frozen=True)
class ComparedLists:
    """An edition that is compared with another."""

    name: str
    """What people call it, such as `shop, edition 12`."""
    history: EditionHistory
    edition: Edition


@dataclass(frozen=True)
class Measure:
    """A number of both editions, as text; empty where it is not known."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """What tells two editions apart."""

    before: str
    """What people call the first edition."""
    after: str
    """What people call the second edition."""
    diff: EditionDiff
    measures: list[Measure]
    """Quality and cost."""
    obstacles: list[str]
    """Why the metrics cannot be compared, in words; empty if they can be."""
    is_same_model: bool
    """Whether both were made by the same solution version."""
    has_other_data: bool
    """Whether the models were trained and measured on different data."""

    @property
    def title(self) -> str:
        """Which editions are compared, in a sentence without a full stop."""
        return f"{self.after} compared with {self.before}"

    @property
    def quality(self) -> str:
        """What the metrics say, in a sentence without a full stop."""
        if self.is_same_model:
            return "the model is the same, and so are its metrics"
        if self.has_other_data:
            return (
                "NDCG@25 was measured on other data, and so for other people: a difference may come"
                " from the data"
            )
        if self.obstacles:
            return f"the metrics cannot be compared: {'; '.join(self.obstacles)}"
        return (
            "NDCG@25 was measured on the same interactions, but for each model alone. So if the"
            " intervals overlap much, the difference may be chance"
        )


def name_lists(files: ListFiles, edition: Edition) -> ComparedLists:
    """The edition of these files, with what people call it."""
    name = f"{files.keys.address}, edition {edition.number}"
    return ComparedLists(name, EditionHistory(files), edition)


def compare_lists(before: ComparedLists, after: ComparedLists) -> Comparison:
    """What tells the second lists from the first.

    Raises UserError, and DamagedObjectError if the file of one of them is damaged.
    """
    old, new = before.edition, after.edition
    diff = compare_editions(
        (old, before.history.files.editions.read_rows(old), before.history.read_data(old)),
        (new, after.history.files.editions.read_rows(new), after.history.read_data(new)),
    )
    obstacles = explain_incomparability(old, new)
    if not diff.comparable and not obstacles:
        obstacles = ["they were measured on different interactions"]
    return Comparison(
        before.name,
        after.name,
        diff,
        [*_list_measures(old, new)],
        obstacles,
        old.solution_version_arn == new.solution_version_arn,
        old.data_version != new.data_version,
    )


def _list_measures(before: Edition, after: Edition) -> Iterator[Measure]:
    """The numbers that at least one of the editions has."""
    ndcg_name = name_ndcg(after.success)
    rows: dict[str, Callable[[Edition], str]] = {
        ndcg_name: _format_ndcg,
        "of popular items": _format_popular_ndcg,
        "coverage": lambda edition: _format_metric(edition, COVERAGE),
        "users with a list": lambda edition: _format_number(edition.counts.subjects),
        "paid for the run": lambda edition: _format_cost(edition.cost_usd),
        "inference on AWS": lambda edition: _format_cost(edition.inference_cost_usd),
    }
    for name, format_row in rows.items():
        measure = Measure(name, format_row(before), format_row(after))
        if measure.before or measure.after:
            yield measure


def _format_ndcg(edition: Edition) -> str:
    ndcg = read_ndcg(edition)
    if ndcg is None:
        return ""
    if ndcg.interval is None:
        return f"{ndcg.value:.4f}"
    return f"{ndcg.value:.4f} ({ndcg.interval[0]:.4f} to {ndcg.interval[1]:.4f})"


def _format_popular_ndcg(edition: Edition) -> str:
    value = read_popular_ndcg(edition)
    return "" if value is None else f"{value:.4f}"


def _format_metric(edition: Edition, name: str) -> str:
    value = edition.metrics.get(name)
    return "" if value is None else f"{value:.4f}"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _format_cost(usd: float | None) -> str:
    return "" if usd is None else f"${usd:,.2f}"
