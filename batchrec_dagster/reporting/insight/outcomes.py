"""Sentences on what people did with the lists, and on the results of an experiment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.personalize.measured_ndcg import name_window
from batchrec_dagster.reporting.insight.numbers import Number, format_count
from batchrec_dagster.steps.outcomes.experiments import Effect, ExperimentResult
from batchrec_dagster.steps.outcomes.outcomes import Outcome

NOTHING_YET = (
    "There are no later interactions yet, so nobody knows what users did after they got a list."
)
REPLAYED = (
    "These data end before the lists were published: the numbers say how well the lists foresee"
    " what comes, not what they caused."
)
NO_EXPERIMENT = "There is no experiment. The setting experiment in the pipeline's YAML starts one."
# The items that users get in each kind of control.
CONTROL_GETS = {"popular": "the most popular items", "none": "no lists"}


def describe_outcome(outcome: Outcome) -> Iterator[str]:
    """Yield sentences on what happened after an edition was published."""
    period = f"{outcome.start:%Y-%m-%d %H:%M} to {outcome.end:%Y-%m-%d %H:%M} UTC"
    yield (
        f"After edition {outcome.edition} ({period}), {outcome.active_users:,} of"
        f" {outcome.users:,} users chose items that they did not have"
        f"{', by ' + outcome.success + ' alone' if outcome.success else ''}."
    )
    if outcome.event_value is not None:
        yield _describe_value(outcome)
    if outcome.hit_rate is None or outcome.gain is None or outcome.popular_hit_rate is None:
        return
    rate = Number.of_estimate(outcome.hit_rate, "share", measured_on=outcome.active_users)
    popular = Number.of_estimate(outcome.popular_hit_rate, "share")
    yield (
        f"Of these, {rate.sentence} chose something from their list; the most popular items of that"
        f" day would have reached {popular.text}."
    )
    yield _compare_with_popular(outcome)


def _compare_with_popular(outcome: Outcome) -> str:
    """Return a sentence on whether the lists reached more people than popular items."""
    gain = outcome.gain
    assert gain is not None
    if gain.ends is None:
        return "Too few users to say whether the lists or popular items reach more people."
    low, high = gain.ends
    points = f"(95% interval of the difference {100 * low:+.1f} to {100 * high:+.1f} points)"
    if gain.is_positive:
        return f"The lists reached more people than popular items {points}."
    if gain.is_negative:
        return f"The lists reached fewer people than popular items {points}."
    return f"Whether the lists or popular items reach more people is not certain {points}."


def _describe_value(outcome: Outcome) -> str:
    assert outcome.event_value is not None
    value = Number.of_estimate(outcome.event_value, "amount")
    text = f"Event value per user and day: {value.sentence}"
    if outcome.list_event_value is None or outcome.popular_event_value is None:
        return f"{text}."
    on_list = Number.of_estimate(outcome.list_event_value, "amount")
    popular = Number(value=outcome.popular_event_value, unit="amount")
    return f"{text}; of items on the lists {on_list.sentence}, of popular items {popular.text}."


def describe_result(result: ExperimentResult) -> Iterator[str]:
    """Yield sentences on the results of the newest experiment so far."""
    gets = CONTROL_GETS[result.control]
    yield (
        f"In the experiment {result.name}, {result.model_users:,} users get the model's"
        f" lists, and {result.control_users:,} in the control get {gets}."
    )
    if result.uneven:
        yield (
            f"Do not trust it: with a control_share of {result.control_share:g}, chance"
            " alone does not make the arms so uneven. Look for users that are missing in one arm."
        )
    if result.since == "data":
        yield (
            "The data end before the lists were published, so this shows nothing of what they"
            " caused."
        )
    if result.other_editions:
        editions = format_count(result.other_editions, "edition")
        yield f"{editions} before solution.success changed count other events, and are left out."
    if not result.effects:
        yield "One of the arms has too few users to compare."
    editions = format_count(result.editions, "edition")
    period = f"{result.start:%Y-%m-%d} to {result.end:%Y-%m-%d}, {editions}"
    for effect in result.effects:
        yield _describe_effect(effect, period)


def describe_control(editions: Sequence[Edition], name: str) -> Iterator[str]:
    """Yield a sentence on the popular items that the control of the experiment gets.

    editions: the editions that are kept.
    name: the name of the experiment.
    """
    of_experiment = [
        edition
        for edition in sorted(editions, key=lambda edition: edition.number)
        if edition.experiment is not None
        and edition.experiment["name"] == name
        and edition.experiment.get("control") == "popular"
    ]
    if not of_experiment or of_experiment[-1].popularity is None:
        return
    window = name_window(of_experiment[-1].popularity.days)
    yield f"In edition {of_experiment[-1].number} these are the most popular items {window}."


def _describe_effect(effect: Effect, period: str) -> str:
    """Return a sentence that compares a measure in both arms.

    period: the period in words, with which the sentence ends.
    """
    measure = effect.measure[0].upper() + effect.measure[1:]
    model, control = (_format_mean(mean.value) for mean in (effect.model, effect.control))
    means = f"{measure} per user and day: {model}, in the control {control}"
    if effect.lift is None or effect.lift.ends is None:
        return f"{means} (too few to compare; {period})."
    is_certain = effect.difference.is_positive or effect.difference.is_negative
    conclusion = "a lift of" if is_certain else "no certain difference:"
    low, high = effect.lift.ends
    interval = f"95% interval {low:+.1%} to {high:+.1%}"
    return f"{means}, {conclusion} {effect.lift.value:+.1%} ({interval}; {period})."


def _format_mean(value: float) -> str:
    """Return the number with three significant digits."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
