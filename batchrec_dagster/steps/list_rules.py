"""Reads what the rules of lists need, and says what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.rules import Block, ExcludeSeen, ListRules, PriceRange
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.users import read_ids
from batchrec_dagster.steps.items import read_attributes
from batchrec_dagster.steps.max_per import list_values
from batchrec_dagster.steps.popular_items import PopularItems
from batchrec_dagster.steps.raw_files import open_source
from batchrec_dagster.steps.rule_context import RuleContext
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.steps.user_attributes import read_user_attributes
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.edition import Finding

# With more lists than this share of them filled with popular items, the check warns.
MAX_SHORT_SHARE = 0.01


@dataclass(frozen=True)
class RuleInputs:
    """The rules of lists, and what they read besides the interactions, before lists are made."""

    rules: ListRules
    today: date
    """The day of the run, in UTC."""
    items: pl.DataFrame | None = None
    """As of `RuleContext`; None too if no rule reads them."""
    users: pl.DataFrame | None = None
    """As of `RuleContext`."""
    blocked: pl.Series | None = None
    """As of `RuleContext`."""
    versions: Sequence[str] = field(default_factory=list)
    """What changes whenever one of these makes other lists."""


def read_rule_inputs(work: Work, published: PublishedList) -> RuleInputs | None:
    """What the list's rules read; None without rules.

    Raises PreparationError, UserError, UserError.
    """
    settings = published.settings
    rules = settings.applied_rules
    if rules is None:
        return None
    today = datetime.now(UTC).date()
    items = read_attributes(work) if settings.rules_read_items else None
    users = read_user_attributes(work) if rules.reads_users else None
    blocked = _read_blocked(work, published, rules.block) if rules.block is not None else None
    versions = [fingerprint([pin.target for pin in rules.pin if not pin.is_over(today)])]
    keys = work.pipeline.keys
    if items is not None:
        versions.append(work.storage.version(work.storage.uri(keys.items)))
    if users is not None:
        versions.append(work.storage.version(work.storage.uri(keys.users)))
    if blocked is not None:
        versions.append(fingerprint(blocked.to_list()))
    return RuleInputs(rules, today, items, users, blocked, versions)


def _read_blocked(work: Work, published: PublishedList, block: Block) -> pl.Series:
    pipeline = work.pipeline
    setting = f"{published.setting}.rules.block.column"
    null_values = pipeline.ratings.all_null_values
    with open_source(parse_source(block.source), work.storage, pipeline.project) as files:
        return read_ids(files, "item", block.column, setting, null_values).to_series()


def prepare_rules(
    published: PublishedList,
    inputs: RuleInputs | None,
    interactions: pl.LazyFrame,
    subjects: pl.Series,
    now: int,
    titled: pl.Series | None,
    popular: PopularItems | None = None,
) -> tuple[Rules, RuleContext]:
    """The rules for these users or items, and what they know.

    inputs: None without declared rules.
    interactions: those of the run.
    subjects: the ids of the users or items whom lists are made for.
    now: the time of the newest interaction, in epoch seconds.
    titled: as of `RuleContext`.
    popular: the items that fill lists which are too short; None where none do, as where they would
        not go with the item. Without declared rules, the model's lists stay short.
    """
    settings, has_rules = published.settings, inputs is not None
    inputs = inputs or RuleInputs(ListRules(), datetime.now(UTC).date())
    context = RuleContext(
        num_results=settings.num_results,
        user_ids=subjects,
        interactions=interactions,
        now=now,
        today=inputs.today,
        items=inputs.items,
        users=inputs.users,
        popular=None if popular is None else popular.ids,
        fills_lists_of_model=has_rules,
        blocked=inputs.blocked,
        titled=titled,
        pinned=[pin.item for pin in inputs.rules.pin if pin.item is not None],
    )
    return Rules(inputs.rules, settings.seen_items, context), context


def check_rules_suit_data(
    rules: ListRules, seen: ExcludeSeen | None, context: RuleContext, prepared: Rules
) -> Finding:
    """Whether each rule can do what it says with these data; a failure only warns.

    seen: what the lists leave out because users had it; None if they leave out nothing.
    """
    problems = [
        *_find_missing_events("exclude_seen", seen, context),
        *_find_missing_events("price", rules.price, context),
        *_find_impossible_pins(prepared),
        *(
            f"max_per: no item has a value of {category}"
            for category in rules.max_per
            if not list_values(category, context).height
        ),
    ]
    finding = "; ".join(problems) or "every rule has what it needs"
    return Finding(
        "rules_suit_data", not problems, finding, {"problems": len(problems)}, severity="warn"
    )


def _find_missing_events(
    name: str, settings: ExcludeSeen | PriceRange | None, context: RuleContext
) -> list[str]:
    """The problem with the events that these settings name, if there is one.

    name: what the settings are called in the declaration.
    """
    existing = context.event_types or set()
    events = settings.events if settings is not None else None
    missing = [event for event in events or () if event.lower() not in existing]
    if not missing:
        return []
    has = f"there are {', '.join(sorted(existing))}" if existing else "they have no types"
    return [f"{name}.events: no interaction is of the type {', '.join(missing)}; {has}"]


def _find_impossible_pins(prepared: Rules) -> list[str]:
    problems = []
    for pin in prepared.pins:
        if not len(pin.items) and pin.setting.only is not None:
            problems.append(f"pin: no item meets {pin.setting.only}")
        elif not len(pin.items):
            problems.append(f"pin: {pin.setting.item} is neither an item nor in the interactions")
        elif not prepared.allows_any(pin):
            target = pin.setting.target
            problems.append(f"pin: {target} is on no list: block or only leaves it out")
    return problems


def check_results_enough(prepared: Rules, num_results: int, most: int) -> Finding:
    """Whether Personalize gave nearly all users enough results; a failure only warns.

    num_results: how many results it was asked for.
    most: how many it may be asked for.
    """
    filled = prepared.filled
    share = filled.short_of_model / max(1, filled.of_model)
    passed = share <= MAX_SHORT_SHARE
    finding = (
        f"for {filled.short_of_model:,} of the {filled.of_model:,} lists of the model ({share:.1%})"
        f" the rules left too few of the {num_results} results asked for"
    )
    if filled.short_of_model:
        finding += f"; {filled.popular_rows:,} popular items fill these {filled.short_of_model:,}"
    if not passed:
        removed = {name: counts.removed for name, counts in prepared.counts.items()}
        strictest = max(removed, key=lambda name: removed[name], default=None)
        if strictest is not None and removed[strictest]:
            finding += f". {strictest} left out most ({removed[strictest]:,}): loosen it"
        finding += (
            ", or set a smaller recommendations.num_results"
            if num_results >= most
            else ", or ask for more: recommendations.candidates"
        )
    numbers: dict[str, int | float] = {
        "lists": filled.of_model,
        "short": filled.short_of_model,
        "results_asked_for": num_results,
    }
    return Finding("results_enough_for_rules", passed, finding, numbers, severity="warn")


def check_lists_not_emptied(
    prepared: Rules, max_share: float, block: str = "recommendations"
) -> Finding:
    """Whether the rules leave nearly everybody a list.

    max_share: the largest share of users without one.
    block: the block of the declaration that has the rules.
    """
    filled = prepared.filled
    emptied = {name: counts.emptied for name, counts in prepared.counts.items() if counts.emptied}
    empty = sum(emptied.values())
    # A product with the share is not exact: 0.29 * 100 is less than 29.
    passed = not empty or (empty < filled.lists and empty / filled.lists <= max_share)
    finding = f"{empty:,} of {filled.lists:,} lists are empty because of {block}.rules"
    if empty:
        finding += f" (at most {100 * max_share:g} % may: gate.max_emptied_share): " + ", ".join(
            f"{name} left out the last item of {lists:,}" for name, lists in emptied.items()
        )
    return Finding("lists_not_emptied", passed, finding, {"users": filled.lists, "empty": empty})


def describe_rules(prepared: Rules) -> list[dict[str, Any]]:
    """What each rule did, for the edition's metadata, in the order of application."""
    return [asdict(counts) for counts in prepared.counts.values()]
