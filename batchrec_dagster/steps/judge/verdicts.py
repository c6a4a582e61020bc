"""Judgements of models and lists before publication.

The thresholds are in thresholds.py. The findings are stored with the edition, so that the report
and the commands can show them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from batchrec_dagster.config.publication import Gate
from batchrec_dagster.editions.edition import (
    DataCounts,
    Edition,
    Finding,
    ListCounts,
    Numbers,
    watch_unless,
)
from batchrec_dagster.personalize.measurements import name_ndcg
from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.steps.judge.quality import ModelFacts, compare_models, judge_quality
from batchrec_dagster.steps.thresholds import (
    DECLINE,
    FEW_WITHOUT_LIST,
    HEAVY_USER,
    LARGE_CHANGE,
    LARGE_SHIFT,
    TIMES_EVEN,
    TIMES_HISTORIES,
    TOP_SHARE,
)

DATA_ARE_FRESH, NO_WORSE = "data_are_fresh", "no_worse_than_before"


def judge_model(facts: ModelFacts, gate: Gate) -> list[Finding]:
    """Judge a model and its data before money is spent on lists."""
    findings = [judge_quality(facts, gate), judge_change(facts)]
    if gate.max_age_days is not None:
        findings.append(judge_age(facts, gate.max_age_days))
    return findings


def judge_change(facts: ModelFacts) -> Finding:
    """Judge whether the model is about as good as the model of the live lists."""
    live, ndcg, name = facts.live, facts.model.ndcg, name_ndcg(facts.model.success)
    if live is None:
        return Finding(NO_WORSE, "good", "0 editions are published to compare the model with")
    edition = f"edition {live.number}"
    if facts.is_live:
        return Finding(NO_WORSE, "good", f"the model is that of {edition}")
    if not facts.is_comparable or ndcg is None or live.ndcg is None:
        return Finding(NO_WORSE, "good", f"not comparable with {edition}")
    text = f"{name} {ndcg.value:.4f}, and {live.ndcg.value:.4f} in {edition}"
    numbers: Numbers = {"ndcg_at_25": ndcg.value, "ndcg_at_25_before": live.ndcg.value}
    difference = compare_models(facts.model, live)
    if difference is None or difference.ends is None:
        text += "; without an interval, so it may be chance"
        is_worse = ndcg.value < (1 - DECLINE.value) * live.ndcg.value
    else:
        low, high = difference.ends
        numbers |= {"difference_low": low, "difference_high": high}
        text += f"; by groups of the same people, the difference is {difference.value:+.4f}"
        text += f" (95% interval {low:+.4f} to {high:+.4f})"
        is_worse = difference.is_negative
    headline = ""
    if is_worse:
        headline = f"the model is worse than that of {edition}"
        text += ". Look at what changed in the data and the settings since"
    return Finding(NO_WORSE, watch_unless(not is_worse), text, headline, numbers)


def judge_age(facts: ModelFacts, max_days: float) -> Finding:
    """Judge whether the data are as fresh as gate.max_age_days demands."""
    days = (facts.now.timestamp() - facts.data_until) / SECONDS_A_DAY
    last_day = datetime.fromtimestamp(facts.data_until, UTC)
    text = f"the newest interaction is of {last_day:%Y-%m-%d}, {days:.1f} days ago"
    numbers: Numbers = {"days": days}
    if days <= max_days:
        return Finding(DATA_ARE_FRESH, "good", text, numbers=numbers)
    headline = f"the data end {days:.0f} days ago"
    text += f"; gate.max_age_days allows {max_days:g}"
    if facts.publish_anyway:
        text += "; published anyway (--publish-anyway)"
        return Finding(DATA_ARE_FRESH, "watch", text, f"{headline}, published anyway", numbers)
    text += (
        f". Nothing was inferred and {facts.what_remains}. Check the source and run again, or"
        f" publish anyway: {facts.how_to_publish_anyway}"
    )
    return Finding(DATA_ARE_FRESH, "refuse", text, headline, numbers)


@dataclass(frozen=True)
class ListFacts:
    """The facts about lists of users that are known after the rows were counted."""

    counts: ListCounts
    expected: int
    """The number of users that lists were made for. By declaration, other users get no list."""
    data: DataCounts
    live: Edition | None
    """The edition that the lists would replace; None if nothing is published."""


def judge_lists(facts: ListFacts) -> list[Finding]:
    """Judge the lists' reach and spread, and the data that the lists were made from."""
    return [
        judge_reach(facts),
        judge_concentration(facts.counts),
        judge_heaviest_user(facts.data),
        judge_data_change(facts.data, facts.live.data if facts.live is not None else None),
    ]


def judge_reach(facts: ListFacts) -> Finding:
    """Judge whether nearly all users that lists were made for have a list."""
    missing = facts.expected - facts.counts.subjects
    text = f"{missing:,} of {facts.expected:,} users for whom lists were made have none"
    if facts.counts.failed:
        text += f", {facts.counts.failed:,} of them because Personalize returned an error"
    is_good = missing <= FEW_WITHOUT_LIST.value * facts.expected
    headline = ""
    if not is_good:
        headline = f"{missing:,} of {facts.expected:,} users have no list"
        text += ". Loosen the rules or the filter of the list, or see the errors in the run's log"
    numbers: Numbers = {"users": facts.expected, "missing": missing}
    return Finding("people_have_lists", watch_unless(is_good), text, headline, numbers)


def judge_concentration(counts: ListCounts) -> Finding:
    """Judge whether a few items take a much larger share of the lists than of the histories."""
    shares = f"{counts.top_lists:.0%} of the rows, and {counts.top_histories:.0%} of the histories"
    text = f"1% of the items take {shares}"
    most = max(TOP_SHARE.value, TIMES_HISTORIES.value * counts.top_histories)
    is_good = counts.top_lists < most
    headline = ""
    if not is_good:
        headline = f"1% of the items take {counts.top_lists:.0%} of the lists"
        text += ". rules.max_per can spread lists over categories"
    numbers: Numbers = {"top_lists": counts.top_lists, "top_histories": counts.top_histories}
    return Finding("not_concentrated", watch_unless(is_good), text, headline, numbers)


def judge_heaviest_user(data: DataCounts) -> Finding:
    """Judge whether one user has so many interactions that this user decides the popular items."""
    text = f"the user with the most has {data.heaviest_share:.1%} of all interactions"
    is_good = data.heaviest_share <= max(HEAVY_USER.value, TIMES_EVEN.value / max(1, data.users))
    headline = ""
    if not is_good:
        headline = f"one user has {data.heaviest_share:.0%} of all interactions"
        text += ", and may be a bot or a shared id: interactions.filter can leave it out"
    numbers: Numbers = {"heaviest_share": data.heaviest_share}
    return Finding("no_user_dominates", watch_unless(is_good), text, headline, numbers)


def judge_data_change(data: DataCounts, before: DataCounts | None) -> Finding:
    """Judge whether the amount and the kinds of the data are about as in the previous edition."""
    if before is None:
        return Finding("data_stable", "good", "0 editions are published to compare the data with")
    changes = [*_find_large_changes(data, before)]
    if not changes:
        text = f"{data.interactions:,} interactions, and {before.interactions:,} before"
        return Finding("data_stable", "good", text)
    text = f"the data changed a lot since the edition before: {', '.join(changes)}"
    text += ". Check the source if nobody expected that"
    headline = f"the data changed a lot: {changes[0]}"
    return Finding("data_stable", "watch", text, headline, {"changes": len(changes)})


def _find_large_changes(data: DataCounts, before: DataCounts) -> Iterator[str]:
    """Yield a text for each number that changed by more than its threshold."""
    for name in ("interactions", "users", "items"):
        change = getattr(data, name) / max(1, getattr(before, name)) - 1
        if abs(change) > LARGE_CHANGE.value:
            yield f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} {name}"
    if (data.vanished_items or 0) > LARGE_CHANGE.value * before.items:
        yield f"{data.vanished_items:,} of {before.items:,} items vanished"
    # An edition that was made with other settings may have no event types to compare.
    if data.events and before.events:
        for event in {**before.events, **data.events}:
            old_share, share = before.events.get(event, 0.0), data.events.get(event, 0.0)
            if abs(share - old_share) > LARGE_SHIFT.value:
                yield f"{event} is {share:.0%} of the events, it was {old_share:.0%}"
    old_mean, mean = before.mean_value, data.mean_value
    if old_mean and mean is not None and abs(mean / old_mean - 1) > LARGE_CHANGE.value:
        yield f"the mean value is {mean:.4g}, it was {old_mean:.4g}"
