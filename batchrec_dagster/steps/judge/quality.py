"""The quality gate: a judgement of a model by people's behaviour and by its metrics.

People's behaviour after earlier lists outweighs the metrics on held-out interactions if the
interval of `Behaviour.gain` excludes zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from batchrec_dagster.config.publication import Gate
from batchrec_dagster.editions.edition import Edition, Finding, Level, Numbers
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.measurements import COVERAGE, NDCG, join_words, name_ndcg
from batchrec_dagster.steps.findings import PUBLISHED_ANYWAY
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.thresholds import FEW_TESTED

QUALITY_GATE = "quality_gate"
# The reason why a model may have no tested users, although interactions of users are held out.
NOBODY_TESTED = (
    "no held-out user later chose an item that was new to them and known from other users"
)


class Behaviour(NamedTuple):
    """The behaviour of people after earlier lists, compared with popular items."""

    gain: Estimate
    """The share of active users who chose an item from their list, minus the share who chose an
    item from a list of popular items."""
    users: int
    """The number of active users. A user counts once for each edition."""
    editions: int


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model, and about the live lists that its lists would replace."""

    model: ModelRecord
    measured_on: str
    """A fingerprint of the settings that select the interactions, and of the events that count.

    Metrics are only compared if their fingerprints are the same.
    """
    live: Edition | None
    """The published lists; None if nothing is published."""
    declared_events: Sequence[str] = ()
    """The only types of events that the metrics should count, from solution.success."""
    rolled_back: str | None = None
    """The reason, in words, why the model's lists count as rolled back; None if they do not."""
    behaviour: Behaviour | None = None
    """The behaviour of people after earlier lists; None if it is unknown."""
    has_rules: bool = False
    """Whether the lists have rules. The metrics are measured before the rules apply."""
    needs_comparison: bool = True
    """Whether the gate warns if there is nothing to compare the model with."""
    data_until: int = 0
    """The time of the newest interaction, in epoch seconds."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    how_to_publish_anyway: str = ""
    """Instructions for a run that publishes anyway, for messages."""
    publish_anyway: bool = False
    """Whether this run publishes anyway."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The model's metrics by name; empty if no user was tested."""
        is_tested = self.model.groups is None or self.model.groups.tested > 0
        # Without tested users the metrics are 0 and mean nothing.
        return self.model.metrics if is_tested else {}

    @property
    def is_live(self) -> bool:
        """Whether this model made the published lists."""
        arn = self.model.solution_version_arn
        return self.live is not None and self.live.solution_version_arn == arn

    @property
    def is_comparable(self) -> bool:
        """Whether the published lists' model was measured on the same interactions."""
        return self.live is not None and self.live.measured_on == self.measured_on

    @property
    def live_ndcg(self) -> float | None:
        """The NDCG@25 of the published lists' model; None if there is no comparison with it."""
        if self.live is None or not self.metrics or self.is_live or not self.is_comparable:
            return None
        return None if self.live.ndcg is None else self.live.ndcg.value

    @property
    def what_remains(self) -> str:
        """A clause for messages on what stays published if these lists are refused."""
        return "nothing was published" if self.live is None else "the published lists stay"


@dataclass(frozen=True)
class Lead:
    """The model's lead in held-out NDCG@25 over popular items."""

    over: str
    """A description of the popular items, in words."""
    difference: Estimate
    is_measured: bool
    """Whether model and popular items were measured on the same people, with an interval.

    If not, the interval is missing, or it is an approximation for two means on different people.
    """

    @property
    def level(self) -> Level:
        """The consequence of the lead for publication."""
        value, high = self.difference.value, self.difference.high
        if (value if high is None else high) < 0:
            return "refuse"
        is_above = self.difference.is_positive or (value > 0 and not self.is_measured)
        return "good" if is_above else "watch"

    @property
    def headline(self) -> str:
        """The meaning of the lead in a few words."""
        match self.level:
            case "refuse":
                return f"the model is worse than {self.over}"
            case "watch" if self.is_measured:
                return f"the model is not clearly better than {self.over}"
            case "watch":
                return f"the model is no better than {self.over}"
        if self.is_measured:
            return f"the model beats {self.over}"
        return f"the model is above {self.over}, which no interval proves"


def measure_lead(model: ModelRecord | Edition) -> Lead | None:
    """Return the model's lead over popular items; None if one of the two was not measured."""
    ndcg, groups, popularity = model.ndcg, model.groups, model.measured_popularity
    if ndcg is None or popularity is None:
        return None
    over = "popular items" if popularity.days is None else popularity.name
    difference = groups.compare(popularity.groups) if groups is not None else None
    if difference is not None:
        return Lead(over, difference, difference.margin is not None)
    # Amazon Personalize tests its own choice of users and does not say how much their NDCG@25
    # varies. About as many users were tested with popular items. So the model's margin is assumed
    # to equal the margin of popular items.
    value, popular = ndcg.value - popularity.ndcg, popularity.groups.mean
    if popular is None or popular.margin is None:
        return Lead(over, Estimate(value=value), is_measured=False)
    difference = Estimate.around(value, math.sqrt(2) * popular.margin)
    return Lead(over, difference, is_measured=False)


def compare_models(model: ModelRecord | Edition, other: ModelRecord | Edition) -> Estimate | None:
    """Return the difference in NDCG@25 between two models on the same people.

    Returns None if the NDCG@25 of a model is not known by groups of people. That is so with Amazon
    Personalize, which tests its own choice of people for each model.
    """
    if model.groups is None or other.groups is None:
        return None
    return model.groups.compare(other.groups)


class _Refusal(NamedTuple):
    """A reason against publishing the lists."""

    headline: str
    reason: str


def judge_quality(facts: ModelFacts, gate: Gate) -> Finding:
    """Judge whether a model is good enough for its lists to be published."""
    lead = measure_lead(facts.model) if facts.metrics else None
    text, numbers = _describe_measurements(facts, lead)
    text += _describe_circumstances(facts)
    level, headline = _weigh(facts, lead)
    refusals = [*_list_refusals(facts, gate, lead)]
    if level == "refuse" and not refusals:
        # The model's lists are live already, so nothing is left to refuse.
        level = "watch"
    if not refusals:
        return Finding(QUALITY_GATE, level, text, headline, numbers)
    headline = " and ".join(refusal.headline for refusal in refusals)
    reasons = ", and ".join(refusal.reason for refusal in refusals)
    if facts.publish_anyway:
        text += f"; published anyway (--publish-anyway), although {reasons}"
        numbers[PUBLISHED_ANYWAY] = 1
        return Finding(
            QUALITY_GATE, "watch", text, f"published anyway, although {headline}", numbers
        )
    text += (
        f". Refused: {reasons}. Nothing was inferred and {facts.what_remains}."
        f" Check the data and run again, or publish anyway: {facts.how_to_publish_anyway}"
    )
    return Finding(QUALITY_GATE, "refuse", text, headline, numbers)


def _weigh(facts: ModelFacts, lead: Lead | None) -> tuple[Level, str]:
    """Return the level and the headline of people's behaviour and the metrics together."""
    level, headline = _weigh_lead(facts, lead)
    behaviour = facts.behaviour
    if behaviour is not None and behaviour.gain.is_positive:
        if level == "refuse":
            return "watch", f"{headline}, but people chose more from earlier lists"
        return "good", "people chose more from these lists than from popular items"
    if behaviour is not None and behaviour.gain.is_negative and level != "refuse":
        return "watch", "people chose popular items more often than these lists"
    return level, headline


def _weigh_lead(facts: ModelFacts, lead: Lead | None) -> tuple[Level, str]:
    """Return the level and the headline of the metrics alone."""
    if lead is not None:
        return lead.level, lead.headline
    if not facts.needs_comparison:
        return "good", ""
    if not facts.metrics:
        return "watch", "the model could not be measured"
    return "watch", "there is nothing to compare the model with"


def _list_refusals(facts: ModelFacts, gate: Gate, lead: Lead | None) -> Iterator[_Refusal]:
    """Yield the reasons against publishing the model's lists.

    The metrics of the live model were judged before its lists were published. So its lists are only
    refused if they were rolled back.
    """
    if facts.rolled_back:
        yield _Refusal("the lists were rolled back", facts.rolled_back)
    if facts.is_live:
        return
    ndcg, coverage = facts.metrics.get(NDCG), facts.metrics.get(COVERAGE)
    if lead is not None and _weigh(facts, lead)[0] == "refuse":
        yield _Refusal(lead.headline, f"it is worse than recommending {lead.over} to everyone")
    name, live_ndcg = name_ndcg(facts.model.success), facts.live_ndcg
    if live_ndcg is not None and ndcg is not None and ndcg < (1 - gate.max_drop) * live_ndcg:
        drop = f"{1 - ndcg / live_ndcg:.0%} below the published lists'"
        yield _Refusal(
            f"{name} is {drop}", f"its {name} is {drop}; gate.max_drop allows {gate.max_drop:.0%}"
        )
    for metric, value, setting, least in (
        (name, ndcg, "gate.min_ndcg_at_25", gate.min_ndcg_at_25),
        ("coverage", coverage, "gate.min_coverage", gate.min_coverage),
    ):
        floor = f"{setting} is {least:g}"
        if value is not None and value < least:
            yield _Refusal(f"{metric} is {value:.4f}, and {floor}", floor)
        elif value is None and least > 0:
            yield _Refusal(
                f"{metric} could not be measured, and {floor}",
                f"{floor}, which needs a measurement",
            )


def _describe_measurements(facts: ModelFacts, lead: Lead | None) -> tuple[str, Numbers]:
    """Return the behaviour and the metrics, as a text and as numbers by name."""
    numbers: Numbers = {}
    text = _describe_behaviour(facts.behaviour, numbers)
    if not facts.metrics:
        text += f"NDCG@25 and coverage are not known, as {NOBODY_TESTED}"
        success = facts.model.success
        return text + (f", counting {join_words(success)} alone" if success else ""), numbers
    model = facts.model
    ndcg, coverage = facts.metrics.get(NDCG, 0.0), facts.metrics.get(COVERAGE, 0.0)
    numbers |= {"ndcg_at_25": ndcg, "coverage": coverage}
    compared = []
    popularity = model.measured_popularity
    if popularity is not None:
        numbers["popularity_ndcg_at_25"] = popularity.ndcg
        compared.append(f"{popularity.ndcg:.4f} for {popularity.name}")
    if facts.live_ndcg is not None:
        numbers["published_ndcg_at_25"] = facts.live_ndcg
        compared.append(f"{facts.live_ndcg:.4f} for the published lists")
    text += f"{name_ndcg(model.success)} {ndcg:.4f}"
    if compared:
        text += f", compared with {join_words(compared)}"
    text += _describe_lead(model, lead, numbers)
    return f"{text}; coverage {coverage:.4f}", numbers


def _describe_behaviour(behaviour: Behaviour | None, numbers: Numbers) -> str:
    """Return a text on people's behaviour, to begin a message with; empty if it is unknown.

    numbers: the numbers of the text are added here, by name.
    """
    if behaviour is None or behaviour.gain.ends is None:
        return ""
    value, (low, high) = behaviour.gain.value, behaviour.gain.ends
    numbers |= {"gain": value, "gain_low": low, "gain_high": high}
    numbers["active_users"] = behaviour.users
    editions = "the edition" if behaviour.editions == 1 else f"{behaviour.editions} editions"
    return (
        f"of those who chose something new after {editions} before, the lists reached"
        f" {100 * value:+.1f} points compared with popular items (95% interval {100 * low:+.1f} to"
        f" {100 * high:+.1f},"
        f" {behaviour.users:,} users); "
    )


def _describe_lead(model: ModelRecord, lead: Lead | None, numbers: Numbers) -> str:
    """Return a text on the lead over popular items and its interval, to append to a message.

    numbers: the numbers of the text are added here, by name.
    """
    if lead is None:
        return ""
    value, ends = lead.difference.value, lead.difference.ends
    users = model.groups.tested if model.groups is not None else None
    numbers["lead"] = value
    notes = [f"a {'lead' if value > 0 else 'difference'} of {value:.4f}"]
    if lead.is_measured and ends is not None:
        numbers |= {"lead_low": ends[0], "lead_high": ends[1]}
        notes.append(f"95% interval {ends[0]:.4f} to {ends[1]:.4f}")
    elif users is None:
        notes.append(f"without an interval, as {model.engine} gives means alone")
    else:
        notes.append("without an interval")
    if users is not None:
        numbers["tested_users"] = users
        few = "only " if users < FEW_TESTED.value else ""
        notes.append(f"{few}{users:,} tested {'user' if users == 1 else 'users'}")
    return f" ({', '.join(notes)})"


def _describe_circumstances(facts: ModelFacts) -> str:
    """Return a text on other facts that a reader needs, to append to a message; may be empty."""
    model, text = facts.model, ""
    if facts.has_rules and facts.metrics:
        text += "; measured before the rules of this list"
    if facts.declared_events and not model.success:
        events = join_words(facts.declared_events)
        text += f"; the metrics of {model.engine} count all events, not only {events}"
    if model.on_earlier_data:
        text += f"; the model was trained on {f'{model.trained_at}'[:10]}, on earlier data"
    if facts.is_live:
        text += "; its lists are already published"
    elif facts.live is not None and not facts.is_comparable:
        changed = "the interactions settings"
        if list(facts.live.success) != list(model.success):
            changed = "the events that the metrics count"
        text += f"; not comparable with the published lists: {changed} changed"
    return text
