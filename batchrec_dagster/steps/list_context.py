"""The inputs of lists besides the job's lines: rules and their data, item columns and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.lists import PopularBy
from batchrec_dagster.config.rules import ListRules
from batchrec_dagster.steps.items import (
    find_titled_items,
    read_attributes,
    read_item_columns,
    read_item_columns_versions,
    read_item_list,
)
from batchrec_dagster.steps.list_counts import Histories
from batchrec_dagster.steps.popular_items import PopularItems, read_popular_items
from batchrec_dagster.steps.reasons import Reasons, prepare_reasons
from batchrec_dagster.steps.requested import Divided
from batchrec_dagster.steps.rule_context import RuleContext
from batchrec_dagster.steps.rules import PreparedRules
from batchrec_dagster.steps.user_attributes import read_user_attributes
from batchrec_dagster.steps.work import Work


@dataclass(frozen=True)
class ListInputs:
    """The inputs of a list besides the interactions, with their versions."""

    rules: ListRules
    today: date
    """The day of the run, in UTC."""
    items: pl.DataFrame | None = None
    """ITEM_ID and the columns of the Items dataset.

    None if there is no such dataset, or if no rule reads its columns.
    """
    users: pl.DataFrame | None = None
    """USER_ID and the columns of the Users dataset; None if no rule reads these columns."""
    blocked: pl.Series | None = None
    """The ids of the items that the rule `block` leaves out; None without this rule."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """A text for each input, by name, that changes when the input would make other lists."""


def read_inputs(work: Work, published: PublishedList) -> ListInputs:
    """Read the inputs of the list's rules and columns. Raises UserError.

    The versions are read before the files. If a file changes in between, the next run finds another
    version and publishes again.
    """
    settings = published.settings
    rules = settings.applied_rules or ListRules()
    today = datetime.now(UTC).date()
    versions = {
        "pins": fingerprint([pin.target for pin in rules.pin if not pin.is_over(today)]),
        "columns": fingerprint(*read_item_columns_versions(work, published)),
    }
    items = users = blocked = None
    if settings.rules_read_items:
        versions["items"] = work.files.asset_version("items")
        items = read_attributes(work)
    if rules.reads_users or isinstance(settings.newcomers, PopularBy):
        versions["users"] = work.files.asset_version("users")
    if rules.reads_users:
        users = read_user_attributes(work)
    if rules.block is not None:
        blocked = read_item_list(work, rules.block, f"{published.setting}.rules.block")
        versions["blocked"] = fingerprint(blocked.to_list())
    return ListInputs(rules, today, items, users, blocked, versions)


@dataclass(frozen=True)
class ListContext:
    """The data that turn the lines of a list into rows."""

    interactions: pl.LazyFrame
    """The columns of Personalize's dataset."""
    until: int
    """The time of the newest interaction, in epoch seconds."""
    rules: PreparedRules | None
    """The rules that leave items out of lists and fill lists up; None if the list needs neither."""
    rule_context: RuleContext | None
    """The data that the rules read; None without rules."""
    item_columns: pl.DataFrame | None
    """The column item_id and the lists' columns of items; None if the lists have ids alone."""
    popular: PopularItems | None
    """The popular items; None if no list needs any."""
    reasons: Reasons | None
    """The reasons why items are on a list; None if the list shows no reasons."""
    has_untitled: bool = False
    """Whether the list shows titles and leaves out some items because they have no title."""


def read_context(
    work: Work,
    published: PublishedList,
    divided: Divided,
    inputs: ListInputs,
    interactions: pl.LazyFrame,
    histories: Histories,
) -> ListContext:
    """Return the data that turn the lines of the list into rows. Raises UserError.

    divided: the users, items or segments that get a list.
    histories: the counts of the interactions.
    """
    settings, is_of_users = published.settings, published.subject == "user"
    titled = popular = reasons = rules = context = None
    if published.subject != "segment":
        titled = find_titled_items(work, published, interactions)
    fills = is_of_users and settings.applied_rules is not None
    if fills or divided.popular.height:
        groups = divided.popular.get_column("reason")
        popular = read_popular_items(work, published, interactions, groups)
    if is_of_users:
        reasons = prepare_reasons(work, published, interactions, divided.ids)
    if settings.applied_rules or settings.seen_items or titled is not None or popular:
        context = RuleContext(
            num_results=settings.num_results,
            user_ids=divided.ids,
            interactions=interactions,
            items_had=histories.items.get_column("item"),
            data_until=histories.last,
            today=inputs.today,
            items=inputs.items,
            users=inputs.users,
            popular=popular.ids if popular is not None else None,
            fills_lists_of_model=fills,
            blocked=inputs.blocked,
            titled=titled,
            pinned=[pin.item for pin in inputs.rules.pin if pin.item is not None],
        )
        rules = PreparedRules(inputs.rules, settings.seen_items, context)
    return ListContext(
        interactions=interactions,
        until=histories.last,
        rules=rules,
        rule_context=context,
        item_columns=_read_columns(work, published),
        popular=popular,
        reasons=reasons,
        has_untitled=titled is not None,
    )


def _read_columns(work: Work, published: PublishedList) -> pl.DataFrame | None:
    """Return item_id and the list's columns of items; None if the list has no such columns."""
    segments = published.pipeline.segments
    if published.subject == "segment" and not (segments is not None and segments.items):
        # These segments are made by expressions, and an expression has no item columns.
        return None
    return read_item_columns(work, published)
