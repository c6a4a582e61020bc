"""What made the lists and from which data; the verdict: whether they are safe to send, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from batchrec_dagster.personalize.evidence import ALL, EMBEDDED, Evidence, MetricEstimate
from batchrec_dagster.reporting.sections import Judgement

GENERATED = "sample://"
# With fewer tested users, the metrics depend on who was drawn.
SMALL_SAMPLE = 100
# Why nobody may be tested, although users are held out.
NOBODY_TESTED = "no held-out user went on to an item that was new to them, but not to everyone"


@dataclass(frozen=True)
class Provenance:
    """engine: in words; source: of the ratings, safe to show; first, last: days of the
    interactions, None if unknown; tested: users whom the metrics were measured on, None if unknown.
    """

    engine: str | None
    source: str | None
    first: str | None = None
    last: str | None = None
    tested: int | None = None

    @classmethod
    def of_edition(cls, about: Mapping[str, Any]) -> Self:
        """From the metadata of a published table."""
        tested = about.get("evidence", {}).get(f"{ALL}/users")
        return cls(
            about.get("engine"), about.get("source"), tested=None if tested is None else int(tested)
        )

    @property
    def lines(self) -> dict[str, str]:
        """By label what is known of each."""
        return {
            "Model": self._describe_model(),
            "Data": self._describe_data(),
            "Measured on": describe_tested_users(self.tested),
        }

    def _describe_model(self) -> str:
        if self.engine == EMBEDDED:
            return "trained by batchrec's embedded engine, not by Amazon"
        return f"trained by {self.engine}" if self.engine else "not known what trained it"

    def _describe_data(self) -> str:
        if self.source is None:
            return "not known which"
        is_generated = self.source.startswith(GENERATED)
        data = f"generated, no real people ({self.source})" if is_generated else self.source
        if self.first == "":
            return f"{data}, without times"
        return f"{data}, {self.first} to {self.last}" if self.first else data


def describe_tested_users(tested: int | None) -> str:
    """The held-out users whom the metrics were measured on, in words."""
    if tested is None:
        return "held-out users; how many is not known"
    if not tested:
        return f"no user: {NOBODY_TESTED}"
    small = ": a small sample" if tested < SMALL_SAMPLE else ""
    return f"{tested:,} held-out {'user' if tested == 1 else 'users'}{small}"


# Without intervals, an NDCG below this share of the one before is worse.
WORSE_SHARE = 0.9
# The lists are concentrated if the most recommended 1% of items take this share of them, and this
# many times the share that the most popular 1% take of the histories.
CONCENTRATED_SHARE, TIMES_HISTORIES = 0.5, 3.0
# More users without a list, or with a short one, than this share are worth a look.
FEW_SHARE = 0.05
# A user with a larger share of the interactions, and so many times an even share, decides which
# items are popular.
HEAVY_SHARE, TIMES_EVEN = 0.1, 10
# Changed settings that the verdict names; the report's "What changed" has all.
MOST_NAMED = 3


@dataclass(frozen=True)
class PreviousEdition:
    """The edition before. ndcg: None if unknown; changed: the settings that changed since and make
    the metrics incomparable, in words; same_model: whether the same solution version made it."""

    edition: int
    ndcg: MetricEstimate | None
    changed: Sequence[str] = ()
    same_model: bool = False


@dataclass(frozen=True)
class VerdictFacts:
    """What the verdict is made from.

    ndcg, popular: NDCG@25 of the model and of the most popular items (None: not measured). tested:
    over all tested users, if known. requested, served, full: users who should get a list, who got
    one, and whose list is complete (None: unknown). top_lists, top_histories: the share of all
    recommendations that the most recommended 1% of items take, and of all interactions that the
    most popular 1% take. heaviest: the share of all interactions that one user has. drift: what has
    changed much in the data, in words. checks: those that warn. unchanged: since which day and
    edition these are the published lists, if a run changed nothing.
    """

    ndcg: float
    popular: float | None = None
    tested: Evidence | None = None
    before: PreviousEdition | None = None
    requested: int = 0
    served: int = 0
    full: int | None = None
    top_lists: float = 0.0
    top_histories: float = 0.0
    heaviest: float = 0.0
    drift: Sequence[str] = ()
    checks: Sequence[str] = ()
    unchanged: str | None = None

    @property
    def is_untested(self) -> bool:
        """Whether it is known that no user was tested: then the metrics are 0 and say nothing."""
        return self.tested is not None and not self.tested.users


@dataclass(frozen=True)
class Verdict:
    """good: safe to send; watch: look first; bad: do not send."""

    judgement: Judgement
    text: str


OPENINGS: dict[Judgement, str] = {
    "good": "Good to send",
    "watch": "Look before you send",
    "bad": "Do not send",
}


def judge_edition(facts: VerdictFacts) -> Verdict:
    """The worst judgement of all reasons; it names these, or else what makes the lists good."""
    reasons = [judge_quality(facts), *_judge_lists(facts)]
    worst_judgement = max((judgement for judgement, _ in reasons), key=[*OPENINGS].index)
    explanations = [text for judgement, text in reasons if judgement == worst_judgement]
    if worst_judgement != "good" and reasons[0][0] == "good":
        explanations.append(f"apart from that, {reasons[0][1]}")
    comparison = _compare_with_previous(facts)
    text = f"{OPENINGS[worst_judgement]}: {'; '.join(explanations)}." + (
        f" {comparison}" if comparison else ""
    )
    return Verdict(worst_judgement, text)


def judge_quality(facts: VerdictFacts) -> tuple[Judgement, str]:
    """How the model compares with the most popular items."""
    tested = facts.tested
    if facts.is_untested:
        return "watch", f"the model could not be measured: {NOBODY_TESTED}"
    if facts.popular is None:
        return "watch", f"NDCG@25 is {facts.ndcg:.4f}, with nothing to compare it with"
    measurement = f"NDCG@25 {facts.ndcg:.4f} compared with {facts.popular:.4f}"
    interval = tested.difference.interval if tested else None
    if tested is None or interval is None:
        is_better = facts.ndcg > facts.popular
        judgement: Judgement = "good" if is_better else "bad"
        if tested is None:
            measurement += ", without an interval, so chance is not ruled out"
        else:
            judgement = "watch"
            users = "1 tested user" if tested.users == 1 else f"{tested.users} tested users"
            measurement += f" on only {users}, too few for an interval"
        verb = "beats" if is_better else "is no better than"
        return judgement, f"the model {verb} the most popular items: {measurement}"
    low, high = interval
    measurement += f" on {tested.users:,} tested users, a lead of {tested.difference.value:.4f}"
    measurement += f" (95% interval {low:.4f} to {high:.4f})"
    if high < 0:
        return "bad", f"the model is worse than the most popular items: {measurement}"
    if low <= 0:
        return (
            "watch",
            f"the model is not clearly better than the most popular items: {measurement}",
        )
    if tested.users < SMALL_SAMPLE:
        return (
            "watch",
            f"the model beats the most popular items, but in a small sample: {measurement}",
        )
    return "good", f"the model clearly beats the most popular items: {measurement}"


def _judge_lists(facts: VerdictFacts) -> Iterator[tuple[Judgement, str]]:
    missing = facts.requested - facts.served
    if missing > 0:
        judgement: Judgement = "bad" if missing > FEW_SHARE * facts.requested else "watch"
        yield judgement, f"{missing:,} of {facts.requested:,} requested users got no list"
    short = 0 if facts.full is None else facts.served - facts.full
    if short > FEW_SHARE * facts.served:
        yield "watch", f"{short:,} of {facts.served:,} lists are short"
    if is_concentrated(facts):
        yield (
            "watch",
            f"1% of the items take {facts.top_lists:.0%} of the lists, compared with"
            f" {facts.top_histories:.0%} of the histories",
        )
    if facts.heaviest > max(HEAVY_SHARE, TIMES_EVEN / max(1, facts.requested)):
        yield (
            "watch",
            f"one user has {facts.heaviest:.1%} of all interactions, as a bot or a shared id has:"
            " interactions.filter can leave it out",
        )
    if _is_worse(facts):
        yield "watch", "the model is worse than the one before"
    if facts.drift:
        yield "watch", f"the data changed much: {', '.join(facts.drift)}"
    for check in facts.checks:
        yield "watch", f"the check {check} warns"


def is_concentrated(facts: VerdictFacts) -> bool:
    """Whether few items take much more of the lists than of the histories."""
    return facts.top_lists >= max(CONCENTRATED_SHARE, TIMES_HISTORIES * facts.top_histories)


def _is_worse(facts: VerdictFacts) -> bool:
    before = facts.before
    if facts.unchanged or before is None or before.ndcg is None or before.changed:
        return False
    if facts.is_untested:
        return False
    margin = _compute_margin(facts)
    loss = before.ndcg.value - facts.ndcg
    return loss > margin if margin is not None else facts.ndcg < WORSE_SHARE * before.ndcg.value


def _compute_margin(facts: VerdictFacts) -> float | None:
    """Half the 95 % interval of the difference between two editions, measured on different users;
    None if an interval is missing."""
    before, current = facts.before and facts.before.ndcg, facts.tested and facts.tested.ndcg
    intervals = [
        estimate.interval for estimate in (before, current) if estimate and estimate.interval
    ]
    return (
        math.hypot(*((high - low) / 2 for low, high in intervals)) if len(intervals) == 2 else None
    )


def _compare_with_previous(facts: VerdictFacts) -> str | None:
    if facts.unchanged:
        return f"Unchanged: these are the lists of {facts.unchanged}."
    before = facts.before
    if before is None:
        return None
    name = f"edition {before.edition}"
    if before.same_model:
        return f"The model is that of {name}."
    if before.changed:
        more = len(before.changed) - MOST_NAMED
        changes = [*before.changed[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
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
