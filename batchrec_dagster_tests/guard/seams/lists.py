"""Lists: turn candidates and rules into ranked rows with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.list_columns import REASONS
from batchrec_dagster.config.rules import ExcludeSeen, RuleSettings
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.personalize import conditions
from batchrec_dagster.personalize.filters import parse_condition
from batchrec_dagster.personalize.formats import read_output_lines
from batchrec_dagster.steps.data import popular_items
from batchrec_dagster.steps.data.popular_items import PopularItems
from batchrec_dagster.steps.lists import item_pairs
from batchrec_dagster.steps.lists import rules as rules_of_lists
from batchrec_dagster.steps.lists.checks import check_table
from batchrec_dagster.steps.lists.inputs import ListInputs
from batchrec_dagster.steps.lists.reasons import Reasons, weigh_events
from batchrec_dagster.steps.lists.rows import RowBuilder
from batchrec_dagster.steps.lists.rules import Rules, prepare_rules
from batchrec_dagster_tests.guard.seams.list_jobs import PersonalizeLimits


@dataclass(frozen=True)
class RuleData:
    """The users, items and interactions that rules are applied to."""

    num_results: int
    """The number of items on a list."""
    user_ids: Sequence[str]
    interactions: pl.DataFrame
    """USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE."""
    items: pl.DataFrame
    """ITEM_ID and the item columns."""
    users: pl.DataFrame
    """USER_ID and the user columns."""
    popular: Sequence[str] = ()
    """The items that fill lists that are too short, the most popular first."""
    blocked: Sequence[str] = ()
    titled: Sequence[str] | None = None
    """The items with a title; None if lists show no title."""
    now: int = 0
    """The time of the newest interaction, in epoch seconds."""
    today: date = date(2026, 12, 24)
    """The day of the run."""


@dataclass(frozen=True)
class RuledLists:
    """The lists after the rules, and counts of the rules' effects."""

    table: pl.DataFrame
    """user_id, rank, item_id, score and reason."""
    counts: Mapping[str, int]
    """Counts of the rules' effects, such as `only removed`, `pin added` and `only emptied`.

    The counts also include `lists of model` (the number of lists of the model's items), `short of
    model` (the number of such lists with too few items), `popular rows` (the number of popular
    items that filled lists), `empty` (the number of lists without an item), and `seen` (the number
    of listed items that `exclude_seen` should have left out).
    """


def apply_rules(
    candidates: Sequence[Mapping[str, Sequence[tuple[str, float | None]]]],
    rules: Mapping[str, Any],
    exclude_seen: Mapping[str, Any] | None,
    data: RuleData,
    *,
    are_popular: bool = False,
) -> RuledLists:
    """Apply the rules to the candidates, and return the lists.

    candidates: the users' items in several pieces. A piece has the items of some users with their
        scores, best first.
    rules, exclude_seen: the blocks of a pipeline's YAML.
    are_popular: whether the candidates are the popular items that newcomers get, in place of the
        model's items.
    """
    declared = RuleSettings.model_validate(rules)
    seen = None if exclude_seen is None else ExcludeSeen.model_validate(exclude_seen)
    inputs = ListInputs(
        num_results=data.num_results,
        subject_ids=pl.Series(data.user_ids, dtype=pl.String),
        interactions=data.interactions.lazy(),
        items_had=data.interactions.get_column("ITEM_ID").unique(),
        data_until=data.now,
        today=data.today,
        items=data.items,
        users=data.users,
        popular=PopularItems(pl.Series(data.popular, dtype=pl.String), days=30),
        blocked=pl.Series(data.blocked, dtype=pl.String) if declared.block else None,
        titled=None if data.titled is None else pl.Series(data.titled, dtype=pl.String),
        pinned=[pin.item for pin in declared.pin if pin.item is not None],
    )
    prepared = Rules(declared, seen, inputs)
    lists = {"members": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    schema = pl.Schema({"subject": pl.String(), **lists})
    pieces = []
    for piece in candidates:
        rows = [
            (user, [item for item, _ in items], [score for _, score in items])
            for user, items in piece.items()
        ]
        lines = pl.DataFrame(rows, schema=schema, orient="row")
        if are_popular:
            lines = lines.with_columns(reason=pl.lit("popular"))
        # With these small limits, a few lists and popular items take the code paths of many.
        with patch.multiple(rules_of_lists, LISTS_AT_ONCE=2, FIRST_POPULAR=2):
            pieces.append(prepared.apply(lines))
    counts = {
        f"{name} {effect}": count
        for name, effects in prepared.counts.items()
        for effect, count in asdict(effects).items()
        if effect != "rule"
    }
    filled = prepared.filled
    counts |= {"lists of model": filled.of_model, "short of model": filled.short_of_model}
    counts |= {"popular rows": filled.popular_rows, "empty": filled.empty, "seen": filled.seen}
    table = pl.concat(pieces).rename({"subject": "user_id", "member": "item_id"})
    return RuledLists(table, counts)


def find_matches(condition: str, table: pl.DataFrame) -> list[bool]:
    """Return for each row whether it meets a rule's condition, such as `ITEMS.STOCK > 0`."""
    matches: list[bool] = conditions.find_matches(parse_condition(condition), table).to_list()
    return matches


@dataclass(frozen=True)
class MadeList:
    """A table of lists made from a batch inference job's output."""

    rows: pl.DataFrame
    """user_id, rank, item_id and score."""
    refused_by: Sequence[str]
    """The names of the checks that refuse to publish the table."""
    warnings: Sequence[str]
    """The names of the checks that only warn."""
    failed_users: Sequence[str]
    """The users without a list because Personalize returned an error."""


def make_list(
    lines: Sequence[str],
    users: Sequence[str],
    *,
    num_results: int,
    seen: Sequence[tuple[str, str]] | None = None,
    max_failed_share: float = 0.0,
    lines_at_once: int = 1_000,
) -> MadeList:
    """Make a table of lists from the lines of a batch inference job's output.

    lines: lines of JSON, as Personalize writes them.
    users: the users that the job was asked for.
    num_results: the number of items on a list.
    seen: pairs of user and item to leave out of the lists; None leaves out none.
    max_failed_share: the largest share of users without a list that the checks accept.
    lines_at_once: the number of lines that are read at once.
    """
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    everyone = pl.Series(users, dtype=pl.String)
    interactions = pl.LazyFrame(seen or [], schema=schema, orient="row")
    items_had = interactions.collect().get_column("ITEM_ID").unique()
    inputs = ListInputs(num_results, everyone, interactions, items_had, 0, date(2026, 12, 24))
    settings = {
        "num_results": num_results,
        "max_failed_share": max_failed_share,
        "exclude_seen": seen is not None,
    }
    attributes = {"name": "shop", "ratings": {"source": "r.csv"}, "recommendations": settings}
    pipeline = Pipeline.model_validate(attributes)
    published = pipeline.user_lists[0]
    builder = RowBuilder(published, inputs, prepare_rules(published, inputs), None)
    pieces = [
        read_output_lines("\n".join(lines[start : start + lines_at_once]).encode())
        for start in range(0, max(1, len(lines)), lines_at_once)
    ]
    with TemporaryDirectory() as folder:
        with ListWriter(Path(folder) / "lists.parquet") as writer:
            builder.write(pieces, writer)
        rows = pl.read_parquet(writer.path)
    step: Any = SimpleNamespace(pipeline=pipeline, resources=PersonalizeLimits())
    checks = check_table(step, published, everyone, builder, num_results)
    return MadeList(
        rows,
        [check.name for check in checks if check.blocks],
        [check.name for check in checks if not (check.passed or check.blocks)],
        builder.failed["subject"].to_list(),
    )


def count_popular_items(
    interactions: pl.DataFrame,
    days: int,
    success: Sequence[str] = (),
    by: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Count the users who had each item in the last `days` days.

    Return ITEM_ID and popularity, and with `by` also group, the most popular items first.

    success: the event types that count; empty for all.
    by: the group of each user; None to count without groups.
    """
    users = None if by is None else pl.DataFrame({"USER_ID": [*by], "reason": [*by.values()]})
    counted = popular_items.count_popular_items(interactions.lazy(), days, success, by=users)
    return counted.rename({"reason": "group"}, strict=False)


def find_bought_together(
    interactions: pl.DataFrame,
    *,
    within_days: int,
    num_results: int,
    events: Sequence[str] = (),
    events_at_once: int = 50_000,
) -> pl.DataFrame:
    """Find the items that users had together with each item.

    Return item_id, similar_item_id and score, best first.

    within_days: the maximum number of days between a user's interactions with the two items.
    num_results: the maximum number of similar items for an item.
    events: the event types that count; empty for all.
    events_at_once: the number of interactions that are paired at once.
    """
    with (
        patch.object(item_pairs, "EVENTS_AT_ONCE", events_at_once),
        patch.object(item_pairs, "COUNTS_AT_ONCE", events_at_once),
    ):
        return item_pairs.find_bought_together(
            interactions.lazy(), within_days=within_days, most=num_results, events=events
        )


def explain_lists(
    lists: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    event_weights: Mapping[str, float] = MappingProxyType({}),
    success: Sequence[str] = (),
    titles: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Return for each row why it is on its list: reason, reason_item, reason_title, reason_event.

    lists: the columns user_id, item_id, score and reason, and in an experiment also arm. The
        column reason has the reasons that rules have set already, or null.
    event_weights, success: the settings of a pipeline's solution.
    titles: the titles by item id; None for no titles.
    """
    named = None
    if titles is not None:
        named = pl.DataFrame({"item_id": [*titles], "title": [*titles.values()]})
    strengths = weigh_events(Solution(event_weights=dict(event_weights), success=[*success]))
    reasons = Reasons(interactions.lazy(), lists["user_id"].unique().sort(), strengths, named)
    return reasons.add(lists).select(REASONS)
