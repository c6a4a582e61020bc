"""The verdict on an edition: whether its lists are safe to send, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batchrec_dagster.personalize.measurements import (
    Evidence,
    MetricEstimate,
    join_events,
    name_ndcg,
)
from batchrec_dagster.reporting.provenance import NOBODY_TESTED, SMALL_SAMPLE
from batchrec_dagster.reporting.sections import Judgement
from batchrec_dagster.storage.measured_popularity import MeasuredPopularity

# If there are no intervals, an NDCG below this share of the one before is worse.
WORSE_SHARE = 0.9
# The lists are concentrated if the most recommended 1% of items take this share of them, and this
# many times the share that the most popular 1% take of the histories.
CONCENTRATED_SHARE, TIMES_HISTORIES = 0.5, 3.0
# If the share of users without a list, or with a short one, or of rows without a title, is larger
# than this, somebody should see to it.
FEW_SHARE = 0.05
# A user with a larger share of the interactions than this, and than this many times an even share,
# decides which items are popular.
HEAVY_SHARE, TIMES_EVEN = 0.1, 10
# The verdict names this many changed settings. The report's section "What changed" has all.
MOST_NAMED = 3


@dataclass(frozen=True)
class PreviousEdition:
    """What the verdict needs to know of the edition before."""

    edition: int
    """Its number."""
    ndcg: MetricEstimate | None
    """Its NDCG@25; None if unknown."""
    changed: Sequence[str] = ()
    """The settings that changed since and make the metrics incomparable, in words."""
    same_model: bool = False
    """Whether the same solution version made it."""


@dataclass(frozen=True)
class VerdictFacts:
    """What the verdict is made from."""

    ndcg: float
    """The model's NDCG@25."""
    recent: MeasuredPopularity | None = None
    """What popular items of the last days reach; None if it was not measured."""
    tested: Evidence | None = None
    """The evidence over all tested users; None if there is none."""
    before: PreviousEdition | None = None
    """The edition before; None if none is kept."""
    requested: int = 0
    """Users who should get a list."""
    served: int = 0
    """Users who got a list."""
    failed: int = 0
    """Users without a list because Personalize returned an error for them."""
    dropped: int = 0
    """Users whose list was removed later, because they were not among the current users."""
    full: int | None = None
    """Users whose list has all its items; None if unknown."""
    rows: int = 0
    """The rows of all lists together, as they were published, and the results without a title."""
    untitled: int = 0
    """How many of these are left out, as they have no title although lists show it."""
    top_lists: float = 0.0
    """The share of all recommendations that the most recommended 1% of items take."""
    top_histories: float = 0.0
    """The share of all interactions that the most popular 1% of items take."""
    heaviest: float = 0.0
    """The share of all interactions that belong to one user."""
    drift: Sequence[str] = ()
    """What has changed much in the data, in words."""
    checks: Sequence[str] = ()
    """The names of the checks that warn."""
    overruled: Sequence[str] = ()
    """The names of the checks that refused the lists, which somebody published anyway."""
    unchanged: str | None = None
    """Which edition is still published, if a run changed nothing."""
    success: Sequence[str] = ()
    """The types of events that the metrics count alone; all if empty."""
    uncounted: str = ""
    """A sentence that says why the metrics do not count the events of success alone."""
    restored: str | None = None
    """Since when readers have these lists again, if they were published before; else None. Readers
    know them, so nothing is compared."""

    @property
    def is_untested(self) -> bool:
        """Whether it is known that no user was tested. Then the metrics are 0 and say nothing."""
        return self.tested is not None and not self.tested.users

    @property
    def popular(self) -> float | None:
        """The NDCG@25 of the most popular items of all time; None without evidence."""
        return self.tested.popular.value if self.tested is not None else None


@dataclass(frozen=True)
class Verdict:
    """Whether the lists can be sent."""

    judgement: Judgement
    """`good` if nothing speaks against sending them, `watch` if somebody should look first, `bad`
    if they should not be sent."""
    text: str
    is_proved: bool = True
    """Whether an interval says that the model is better than popular items. Without one, `good`
    only means that all checks passed."""

    @property
    def appearance(self) -> str:
        """How pages show it: by its judgement, or as `unproved` if that is good without proof."""
        return self.judgement if self.judgement != "good" or self.is_proved else "unproved"


class Reason(NamedTuple):
    """A reason for the verdict."""

    judgement: Judgement
    text: str
    """The reason in words, without a capital and a full stop."""
    is_proved: bool = True
    """Whether it holds by more than chance."""


# How a verdict's text begins. The judgements go from the best to the worst.
OPENINGS: dict[Judgement, str] = {
    "good": "Good to send",
    "watch": "Look before you send",
    "bad": "Do not send",
}
# How it begins if nothing speaks against sending, and no interval proves that the model is better.
UNPROVED_OPENING = "Checks passed"


def judge_edition(facts: VerdictFacts) -> Verdict:
    """The worst judgement of all reasons, with the reasons for it."""
    quality = judge_quality(facts)
    reasons = [quality, *_judge_lists(facts)]
    worst_judgement = max((reason.judgement for reason in reasons), key=[*OPENINGS].index)
    explanations = [reason.text for reason in reasons if reason.judgement == worst_judgement]
    if worst_judgement != "good" and quality.judgement == "good":
        explanations.append(f"apart from that, {quality.text}")
    is_proved = worst_judgement != "good" or quality.is_proved
    opening = OPENINGS[worst_judgement] if is_proved else UNPROVED_OPENING
    text = f"{opening}: {'; '.join(explanations)}."
    comparison = _compare_with_previous(facts)
    if comparison:
        text += f" {comparison}"
    if facts.uncounted:
        text += f" {facts.uncounted}"
    if facts.dropped:
        users = "1 user was" if facts.dropped == 1 else f"{facts.dropped:,} users were"
        text += f" {users} dropped from these lists later: gone from the current users, or erased."
    return Verdict(worst_judgement, text, is_proved)


def judge_quality(facts: VerdictFacts) -> Reason:
    """How the model compares with the most popular items."""
    if facts.is_untested:
        nobody = NOBODY_TESTED
        if facts.success:
            nobody += f", counting {join_events(facts.success)} alone"
        return Reason("watch", f"the model could not be measured: {nobody}")
    name, tested = name_ndcg(facts.success), facts.tested
    if facts.recent is not None and facts.recent.is_better_than(facts.popular):
        return _compare_with_recent(facts, facts.recent)
    if tested is None:
        return Reason("watch", f"{name} is {facts.ndcg:.4f}, with nothing to compare it with")
    measurement = f"{name} {facts.ndcg:.4f} compared with {tested.popular.value:.4f}"
    if tested.difference.interval is None:
        return _judge_without_interval(tested, measurement)
    low, high = tested.difference.interval
    lead = "lead" if tested.difference.value > 0 else "difference"
    measurement += f" on {tested.users:,} tested users, a {lead} of {tested.difference.value:.4f}"
    measurement += f" (95% interval {low:.4f} to {high:.4f})"
    if high < 0:
        return Reason("bad", f"the model is worse than the most popular items: {measurement}")
    if low <= 0:
        conclusion = "the model is not clearly better than the most popular items"
        return Reason("watch", f"{conclusion}: {measurement}")
    if tested.users < SMALL_SAMPLE:
        conclusion = "the model beats the most popular items, but in a small sample"
        return Reason("watch", f"{conclusion}: {measurement}")
    return Reason("good", f"the model clearly beats the most popular items: {measurement}")


def _compare_with_recent(facts: VerdictFacts, recent: MeasuredPopularity) -> Reason:
    """How the model compares with popular items of the last days, which are better than those of
    all time.

    They are measured on other users than the model, so both margins of error count.
    """
    measurement = (
        f"{name_ndcg(facts.success)} {facts.ndcg:.4f} compared with {recent.ndcg:.4f},"
        f" measured by batchrec on {recent.users:,} user{'' if recent.users == 1 else 's'}"
    )
    lead = facts.ndcg - recent.ndcg
    interval = facts.tested.ndcg.interval if facts.tested else None
    if interval is None or recent.margin is None:
        if facts.tested is None:
            return _judge_unproved(recent, measurement, is_better=lead > 0)
        verb = "beats" if lead > 0 else "is no better than"
        text = f"the model {verb} {recent.name}: {measurement}, without an interval"
        return Reason("watch", text)
    margin = math.hypot((interval[1] - interval[0]) / 2, recent.margin)
    measurement += f", a difference of {lead:.4f} with a margin of error of {margin:.4f}"
    if lead < -margin:
        return Reason("bad", f"the model is worse than {recent.name}: {measurement}")
    if lead <= margin:
        conclusion = f"the model is not clearly better than {recent.name}"
        return Reason("watch", f"{conclusion}: {measurement}")
    if facts.tested is not None and facts.tested.users < SMALL_SAMPLE:
        conclusion = f"the model beats {recent.name}, but in a small sample"
        return Reason("watch", f"{conclusion}: {measurement}")
    return Reason("good", f"the model clearly beats {recent.name}: {measurement}")


def _judge_without_interval(tested: Evidence, measurement: str) -> Reason:
    verb = "beats" if tested.difference.value > 0 else "is no better than"
    text = f"the model {verb} the most popular items: {measurement}"
    number = tested.users
    users = "1 tested user" if number == 1 else f"{number} tested users"
    return Reason("watch", f"{text} on only {users}, too few for an interval")


def _judge_unproved(recent: MeasuredPopularity, measurement: str, *, is_better: bool) -> Reason:
    """How a model compares with popular items by numbers alone, as Amazon's metrics are.

    measurement: both numbers, in words.
    """
    if not is_better:
        text = f"the model is no better than {recent.name}: {measurement}, without an interval"
        return Reason("bad", text)
    text = (
        f"the model's number is above that of {recent.name}: {measurement}. It has no interval,"
        " so nobody can say whether that is chance"
    )
    return Reason("good", text, is_proved=False)


def _judge_lists(facts: VerdictFacts) -> Iterator[Reason]:
    """Reasons against sending the lists."""
    missing = facts.requested - facts.served
    if missing > 0:
        judgement: Judgement = "bad" if missing > FEW_SHARE * facts.requested else "watch"
        text = f"{missing:,} of {facts.requested:,} requested users got no list"
        if facts.failed:
            text += f", {facts.failed:,} of them because Personalize returned an error"
        yield Reason(judgement, text)
    short = 0 if facts.full is None else facts.served - facts.full
    if short > FEW_SHARE * facts.served:
        yield Reason(
            "watch", f"{short:,} of {facts.served:,} lists have fewer items than requested"
        )
    if facts.untitled > FEW_SHARE * facts.rows:
        judgement = "bad" if facts.untitled > facts.rows / 2 else "watch"
        yield Reason(judgement, f"{facts.untitled:,} of {facts.rows:,} results have no title")
    if is_concentrated(facts):
        yield Reason(
            "watch",
            f"{facts.top_lists:.0%} of all recommendations are for just 1% of the items, while the"
            f" most popular 1% have {facts.top_histories:.0%} of the interactions",
        )
    if facts.heaviest > max(HEAVY_SHARE, TIMES_EVEN / max(1, facts.requested)):
        yield Reason(
            "watch",
            f"one user has {facts.heaviest:.1%} of all interactions, and may be a bot or a"
            " shared id: interactions.filter can leave it out",
        )
    if _is_worse(facts):
        yield Reason("watch", "the model is worse than the one before")
    if facts.drift:
        yield Reason("watch", f"the data changed a lot: {', '.join(facts.drift)}")
    for check in facts.overruled:
        text = f"the check {check} refused these lists, and they were published anyway"
        yield Reason("watch", text)
    for check in facts.checks:
        yield Reason("watch", f"the check {check} warns")


def is_concentrated(facts: VerdictFacts) -> bool:
    """Whether few items take much more of the lists than of the histories."""
    return facts.top_lists >= max(CONCENTRATED_SHARE, TIMES_HISTORIES * facts.top_histories)


def _is_worse(facts: VerdictFacts) -> bool:
    """Whether the model is worse than the one before, as far as they can be compared."""
    before = facts.before
    if before is None or before.ndcg is None or before.changed:
        return False
    if facts.unchanged or facts.restored or facts.is_untested:
        return False
    margin = _compute_margin(facts)
    if margin is None:
        return facts.ndcg < WORSE_SHARE * before.ndcg.value
    return before.ndcg.value - facts.ndcg > margin


def _compute_margin(facts: VerdictFacts) -> float | None:
    """Half the 95% interval of the difference between two editions, measured on different users.

    None if an interval is missing.
    """
    before = facts.before.ndcg if facts.before else None
    current = facts.tested.ndcg if facts.tested else None
    if before is None or current is None or not before.interval or not current.interval:
        return None
    half_widths = ((high - low) / 2 for low, high in (before.interval, current.interval))
    return math.hypot(*half_widths)


def _compare_with_previous(facts: VerdictFacts) -> str | None:
    """A sentence that compares the model with the one before; None if there is none."""
    if facts.restored:
        return f"Restored: {facts.restored}."
    if facts.unchanged:
        return f"Unchanged: these are the lists of {facts.unchanged}."
    before = facts.before
    if before is None:
        return None
    name = f"edition {before.edition}"
    if before.same_model:
        return f"The model is that of {name}."
    if before.changed:
        changes = [*before.changed[:MOST_NAMED]]
        if len(before.changed) > MOST_NAMED:
            changes.append(f"and {len(before.changed) - MOST_NAMED} more")
        return f"Not comparable with {name}: {', '.join(changes)}."
    if before.ndcg is None:
        return None
    previous_ndcg = f"NDCG@25 was {before.ndcg.value:.4f}"
    margin = _compute_margin(facts)
    if margin is None:
        return f"In {name}, {previous_ndcg}."
    if abs(facts.ndcg - before.ndcg.value) <= margin:
        return f"It is as good as {name}, within the margin of error: {previous_ndcg}."
    comparison = "better" if facts.ndcg > before.ndcg.value else "worse"
    return f"It is {comparison} than {name}: {previous_ndcg}."
