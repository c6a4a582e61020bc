"""How a personalization model is trained: choose and measure on nine tenths, then fit on all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain

from batchrec_dagster.local_personalize.learning.blend_model import HeldOut, PersonalizationModel
from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.fit_components import Fitting, Values
from batchrec_dagster.local_personalize.learning.hpo import Range, candidates
from batchrec_dagster.local_personalize.learning.hyperparameters import Value
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model_selection import (
    EASE,
    EITHER,
    FACTORS,
    POPULARITY,
    POWERS,
    SEQUENCE,
    SHRUNK,
    Choice,
    choose,
    temperature,
    trials,
)
from batchrec_dagster.local_personalize.learning.split import Split, split, split_histories

Log = Callable[[str], None]

NAMES = (EASE, SEQUENCE, EITHER, FACTORS, POPULARITY)
SHRUNK_LIMIT = 6_000  # items: a second regression takes time that grows with their square or cube
DEFAULT_SHARE = 10.0  # of EASE alone: spreads the softmax about as choosing would

# With fewer users held out, others are too, by a second fit: choosing on few is choosing by chance.
ENOUGH_USERS = 200
SECOND_SHARE = 0.3


def personalize(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[PersonalizationModel, dict[str, float]]:
    """The model and its metrics; no metrics when nobody can be held out."""
    held_out = split(interactions, seed)
    if held_out is None:
        log("nobody can be held out: no metrics, and the defaults serve")
        return by_default(interactions, values, seed, log), {}
    splits = [held_out]
    if len(held_out.users) < ENOUGH_USERS:
        again = split(interactions, seed, without=held_out.users, share=SECOND_SHARE)
        splits += [again] if again else []
    measured, choice, heat = _choose(splits, values, seed, log)
    metrics = evaluate(measured, held_out).summary()
    log("metrics: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    beside = HeldOut(measured, interactions.user_ids[held_out.users], values)
    del splits, held_out  # a copy of the data, beside the largest of the fits
    fitted = Fitting(interactions, values, seed, log).parts(list(choice.shares), values)
    return replace(fitted.blend(choice, heat), held_out=beside), metrics


def personalize_histories(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[PersonalizationModel, PersonalizationModel | None, Split | None]:
    """The model, and the one trained on each user's oldest part with the split it was."""
    held_out = split_histories(interactions)
    if held_out is None:
        log("no user has enough interactions to hold some out: no metrics, and the defaults serve")
        return by_default(interactions, values, seed, log), None, None
    measured, choice, heat = _choose([held_out], values, seed, log)
    fitted = Fitting(interactions, values, seed, log).parts(list(choice.shares), values)
    return fitted.blend(choice, heat), measured, held_out


def tune(
    interactions: Interactions,
    values: Values,
    ranges: Mapping[str, Range],
    jobs: int,
    seed: int,
    log: Log,
) -> dict[str, Value]:
    """The hyperparameters of those tried whose best blend has the best NDCG at 25.

    The users that the metrics will be measured on take no part in it: others are held out.
    """
    outer = split(interactions, seed)
    held_out = split(outer.train, seed) if outer else None
    tries = candidates(ranges, values, jobs, seed)
    if held_out is None:
        log("nobody can be held out to tune on: the first hyperparameters serve")
        return next(tries)
    fitting = Fitting(held_out.train, values, seed, log)
    best: dict[str, Value] = {}
    most = -1.0
    for tried in tries:
        fitted = fitting.parts(_tried(held_out), {**values, **tried})
        runs = trials(fitted.parts, held_out, fitted.item_ids)
        ndcg = choose(runs, recency=recency({**values, **tried})).ndcg
        log(f"tried {tried}: NDCG at 25 of {ndcg:.4f}")
        if ndcg > most:
            best, most = tried, ndcg
    return best


def recency(values: Values) -> bool:
    """Whether the recent may weigh more than the old."""
    return bool(values.get("recency_mask", values.get("apply_recency_bias", True)))


def _tried(held_out: Split) -> tuple[str, ...]:
    """The parts to choose from: a second regression only where one split serves to choose on."""
    again = len(held_out.users) >= ENOUGH_USERS and len(held_out.train.item_ids) <= SHRUNK_LIMIT
    return (*NAMES, SHRUNK) if again else NAMES


def by_default(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> PersonalizationModel:
    """What serves when there is nobody to choose on: the regression alone."""
    power = POWERS[EASE][0] if recency(values) else 0.0
    fitted = Fitting(interactions, values, seed, log).parts([EASE], values)
    return fitted.blend(Choice({EASE: power}, {EASE: DEFAULT_SHARE}, 0.0), 1.0)


def _choose(
    splits: list[Split], values: Values, seed: int, log: Log
) -> tuple[PersonalizationModel, Choice, float]:
    """What is chosen on all the splits: its model of the first, and the heat of its softmax."""
    names = _tried(splits[0])
    fits = [Fitting(one.train, values, seed, log).parts(names, values) for one in splits]
    runs = [
        trials(fitted.parts, one, fitted.item_ids) for fitted, one in zip(fits, splits, strict=True)
    ]
    choice = choose(list(chain(*runs)), recency=recency(values))
    heat = temperature(fits[0].blend(choice, 1.0).score, runs[0][:1])
    log(
        "chosen: "
        + ", ".join(f"{name} (recency {choice.powers[name]})" for name in choice.shares)
        + f"; NDCG at 25 of {choice.ndcg:.4f}"
    )
    return fits[0].blend(choice, heat), choice, heat
