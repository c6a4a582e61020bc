"""What an experiment shows, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchrec_dagster.steps.experiments import Effect, ExperimentResult
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.measured_popularity import name_window

# What the users in each kind of control get.
CONTROL_GETS = {"popular": "the most popular items", "none": "no lists"}


NO_EXPERIMENT = "There is no experiment. The setting experiment in the pipeline's YAML starts one."


def describe_result(result: ExperimentResult) -> Iterator[str]:
    """What the newest experiment shows so far, in sentences."""
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
        editions = f"{result.other_editions} edition{'' if result.other_editions == 1 else 's'}"
        yield (f"{editions} before solution.success changed count other events, and are left out.")
    if not result.effects:
        yield "One of the arms has too few users to compare."
    editions = f"{result.editions} edition{'' if result.editions == 1 else 's'}"
    period = f"{result.start:%Y-%m-%d} to {result.end:%Y-%m-%d}, {editions}"
    for effect in result.effects:
        yield _describe_effect(effect, period)


def describe_control(editions: Sequence[Edition], name: str) -> Iterator[str]:
    """Which popular items the control of the experiment gets, in sentences.

    editions: those that are kept.
    name: the experiment's.
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
    """A sentence about a measure, in both arms. It ends with the period in words."""
    measure = effect.measure[0].upper() + effect.measure[1:]
    model, control = _format_number(effect.model.value), _format_number(effect.control.value)
    means = f"{measure} per user and day: {model}, in the control {control}"
    if effect.lift is None:
        return f"{means} (too few to compare; {period})."
    is_certain = not effect.difference.low <= 0 <= effect.difference.high
    conclusion = "a lift of" if is_certain else "no certain difference:"
    lift = effect.lift
    interval = f"95% interval {lift.low:+.1%} to {lift.high:+.1%}"
    return f"{means}, {conclusion} {lift.value:+.1%} ({interval}; {period})."


def _format_number(value: float) -> str:
    """The number with three significant digits."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
