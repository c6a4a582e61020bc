"""What an experiment shows, and how many users one needs, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from batchrec_dagster.outcomes.experiment import Effect, ExperimentPlan, ExperimentResult
from batchrec_dagster.reporting.outcomes import NOTHING_YET
from batchrec_dagster.reporting.terminal import Column, TerminalTable, render

CONTROL_GETS = {"popular": "the most popular items", "none": "no lists"}


@dataclass(frozen=True)
class ExperimentView:
    """What `batchrec show --experiment` shows of a pipeline; None where nothing is measured.

    published: the name of the experiment that the published lists are of, if any.
    """

    pipeline: str
    published: str | None
    result: ExperimentResult | None
    plan: ExperimentPlan | None


def format_experiment(view: ExperimentView, width: int | None) -> str:
    """The text for a terminal of this width, or for a pipe (None)."""
    sentences = [*describe_result(view.result)] if view.result else []
    if view.published and (view.result is None or view.result.name != view.published):
        sentences.append(
            f"The published lists are of the experiment {view.published}, of which nothing is"
            " measured yet."
        )
    sentences = sentences or [NO_EXPERIMENT]
    if view.plan is None:
        return render([f"Experiment in {view.pipeline}", *sentences, NOTHING_YET], [], width=width)
    table = TerminalTable(
        "Users needed, in both arms together",
        [Column("to find a lift of", right=True), Column("users", right=True)],
        [[f"{lift:.0%}", f"{users:,}"] for lift, users in view.plan.needed],
        note=describe_plan(view.plan),
    )
    return render([f"Experiment in {view.pipeline}", *sentences], [[table]], width=width)


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
    if not result.effects:
        yield "One of the arms has too few users to compare."
    editions = f"{result.editions} edition{'' if result.editions == 1 else 's'}"
    period = f"{result.start:%Y-%m-%d} to {result.end:%Y-%m-%d}, {editions}"
    for effect in result.effects:
        yield f"{_describe_effect(effect)}; {period})."


def _describe_effect(effect: Effect) -> str:
    """A sentence but for the end of its brackets."""
    measure = effect.measure[0].upper() + effect.measure[1:]
    model, control = _format_number(effect.model.value), _format_number(effect.control.value)
    means = f"{measure} per user and day: {model}, in the control {control}"
    if effect.lift is None:
        return f"{means} (too few to compare"
    certain = not effect.difference.low <= 0 <= effect.difference.high
    found = "a lift of" if certain else "no certain difference:"
    lift = effect.lift
    interval = f"95% interval {lift.low:+.1%} to {lift.high:+.1%}"
    return f"{means}, {found} {lift.value:+.1%} ({interval}"


def describe_plan(plan: ExperimentPlan) -> str:
    """What the numbers of users needed are based on."""
    return (
        f"For as long as the {_format_number(plan.days)} days measured, with"
        f" {_format_number(plan.interactions)} interactions per user and day and a control_share of"
        f" {plan.control_share:g}; found four times of five. The {plan.users:,} users there are"
        f" show a lift of {plan.smallest:.1%} or more."
    )


def _format_number(value: float) -> str:
    """Three digits that count."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
