"""Trains, tunes and updates the blend model.

A full training selects the blend and measures it on held-out users, then fits it on all data. An
update (trainingMode UPDATE) keeps the blend and the weights of EASE, where new items get
approximate ones; it counts co-occurrences again, which is cheap, and resumes the factors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from batchrec_dagster.personalize.recipes import Values

from . import ease
from .components import (
    CONTENT,
    EASE,
    EASE_HIGH_REG,
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    USER_NEIGHBORS,
    FactorScorer,
    ItemItemScorer,
    Scorer,
)
from .evaluation import Split, split, split_histories, split_users
from .evidence import measure
from .fit_components import EASE_NEIGHBORS, ComponentFitter, FittedComponents, regularization
from .hpo import Log
from .interactions import Interactions, TrainingError, find_positions
from .model_selection import (
    RECENCY_EXPONENTS,
    Blend,
    Options,
    fit_temperature,
    select_blend,
    select_repeats,
)
from .models import BlendModel, HeldOut, load_model
from .sampling import held_out_share, is_large, sample, select_on_sample
from .validation import ValidationSet, make_validation_set, make_validation_sets

COMPONENTS = (EASE, SEQUENCE, SYMMETRIC_COOC, FACTORS, POPULARITY)
HIGH_REG_MAX_ITEMS = 6_000  # a second EASE takes time with the square or cube of the items
HIGH_REG_MAX_ROWS = 250_000  # more interactions are worth less regularization
MAX_COMPARED_USERS = 5_000  # with each user, on average; where they are more, neighbors add nothing
# Where users have more interactions on average, and fewer of these have the time of the one before,
# the order in which they came is known so well that co-occurrence in either order adds nothing.
LONG_HISTORIES = 100
FEW_TIES = 0.2
FEW_HELD_OUT = 0.02  # of the users: without them, co-occurrence and factors are as good
DEFAULT_WEIGHT = 10.0  # of EASE alone: about the spread of the softmax that a selection gives

# With fewer users held out, a second split is fitted too: few users select noise.
MIN_VALIDATION_USERS = 200
SECOND_HELD_OUT_SHARE = 0.3


def train_blend(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[BlendModel, dict[str, float]]:
    """The model and its metrics; no metrics when no users can be held out."""
    held_out = split(interactions, seed, share=held_out_share(interactions))
    if held_out is None:
        log("too little data to hold out users: no metrics, default blend")
        return _default_blend(interactions, values, seed, log), {}
    splits = [held_out]
    if len(held_out.users) < MIN_VALIDATION_USERS:
        second = split(interactions, seed, without=held_out.users, share=SECOND_HELD_OUT_SHARE)
        splits += [second] if second else []
    options = choose_options(held_out)
    large = is_large(interactions)
    if large:
        parts = [sample(one, seed) for one in splits]
        options = _select_options_on_sample(parts, options, values, seed, log)
    first, blend, temperature = _fit_and_select(
        splits, options, values, seed, log, keeps_inverses=not large
    )
    measured = first.blend(blend, temperature)
    with_seen = make_validation_set({}, held_out, measured.item_ids, include_seen=True)
    repeats = select_repeats(measured.score, with_seen, measured.repeat_rates)
    if repeats is not None:
        log(f"repeats: {repeats.share:.0%} of the next interactions, recency {repeats.exponent}")
    measured = replace(measured, repeats=repeats)
    metrics = _measure_and_log(measured, held_out, log)
    measured = replace(measured)  # without the sums of weights that it kept to score
    users = interactions.user_ids[held_out.users]
    del splits, held_out  # copies of the data, before the largest fit
    if large:  # EASE of nearly all users is not fitted again with the others
        few = len(users) <= FEW_HELD_OUT * len(interactions.user_ids)
        model = _update_model(
            measured, interactions, values, seed, log, serves=True, refits=not few
        )
        return replace(model, held_out=HeldOut(measured, users, values)), metrics
    fitter = ComponentFitter(interactions, values, seed, log, start=first)
    fitted = fitter.fit(list(blend.weights), values)
    model = fitter.with_new_items(replace(fitted.blend(blend, temperature), repeats=repeats))
    return replace(model, held_out=HeldOut(measured, users, values)), metrics


def train_blend_on_histories(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[BlendModel, BlendModel | None, Split | None]:
    """The model of all data; the one trained on the oldest part of each history, and that split."""
    held_out = split_histories(interactions)
    if held_out is None:
        log("no user has enough interactions to hold some out: no metrics, default blend")
        return _default_blend(interactions, values, seed, log), None, None
    options = choose_options(held_out)
    first, blend, temperature = _fit_and_select([held_out], options, values, seed, log)
    fitter = ComponentFitter(interactions, values, seed, log, start=first)
    fitted = fitter.fit(list(blend.weights), values)
    return fitted.blend(blend, temperature), first.blend(blend, temperature), held_out


def measure_blend(
    held_out: Split, values: Values, seed: int, log: Log
) -> Callable[[Values], float]:
    """For hpo.tune: a function from hyperparameters to the NDCG at 25 of their blend."""
    fitter = ComponentFitter(held_out.train, values, seed, log)

    def ndcg(tried: Values) -> float:
        fitted = fitter.fit(list(choose_options(held_out)), tried)
        sets = make_validation_sets(fitted.scorers, held_out, fitted.item_ids)
        return select_blend(sets, recency=uses_recency(tried, held_out.train)).ndcg

    return ndcg


def update_blend(
    previous: Path, interactions: Interactions, seed: int, log: Log
) -> tuple[BlendModel, dict[str, float], Values] | None:
    """The model in the folder `previous`, updated with `interactions`; metrics, hyperparameters.

    The metrics are those of a model updated without the users who were held out before, on these
    users. None when the model was saved without held-out users, so it cannot be updated.
    """
    old = load_model(previous)
    if not isinstance(old, BlendModel):
        raise TrainingError(f"the model in {previous} cannot be updated; train it in full")
    before = HeldOut.load(previous)
    if before is None:
        log("the earlier version cannot be updated, so this is a full training")
        return None
    values = before.hyperparameters
    held = np.sort(find_positions(interactions.user_ids, before.users))
    held = held[held >= 0]
    held = held[np.diff(interactions.starts)[held] >= 2]
    metrics: dict[str, float] = {}
    measured = before.model
    if len(held) and len(held) < len(interactions.user_ids):
        held_out = split_users(interactions, held)
        measured = _update_model(before.model, held_out.train, values, seed, log)
        metrics = _measure_and_log(measured, held_out, log)
    model = _update_model(old, interactions, values, seed, log, serves=True)
    return replace(model, held_out=HeldOut(measured, before.users, values)), metrics, values


def _update_model(
    old: BlendModel,
    interactions: Interactions,
    values: Values,
    seed: int,
    log: Log,
    *,
    serves: bool = False,
    refits: bool = True,
) -> BlendModel:
    """The model with new data; with new items if it `serves`, rather than measures.

    Unless it `refits`, co-occurrence and factors stay, and know nothing of new items.
    """
    began = time.monotonic()
    fitter = ComponentFitter(interactions, values, seed, log)
    old_index = fitter.old_index(old)
    scorers: dict[str, Scorer] = {}
    for name, scorer in old.scorers.items():
        cooccurrence = name in (SEQUENCE, SYMMETRIC_COOC)
        stays = not refits and (cooccurrence or isinstance(scorer, FactorScorer))
        if stays and isinstance(scorer, ItemItemScorer | FactorScorer):
            scorers[name] = scorer.with_items(old_index)
        elif (
            cooccurrence
            or name in (POPULARITY, USER_NEIGHBORS)
            or (name == CONTENT and interactions.features is not None)
        ):
            scorers[name] = fitter.fit([name], values).scorers[name]
        elif isinstance(scorer, ItemItemScorer):
            scorers[name] = ItemItemScorer(
                ease.extend(
                    scorer.weights,
                    old_index,
                    fitter.matrix,
                    regularization=regularization(name),
                    neighbors=EASE_NEIGHBORS,
                )
            )
        elif isinstance(scorer, FactorScorer):
            scorers[name] = fitter.resume_factors(scorer, old_index)
    log(f"updated: {len(interactions):,} interactions in {time.monotonic() - began:.1f} s")
    model = BlendModel(
        fitter.item_ids,
        fitter.popularity,
        scorers,
        old.recency_exponents,
        old.weights,
        repeats=old.repeats,
        repeat_rates=fitter.repeat_rates,
        count_exponent=old.count_exponent,
    )
    return fitter.with_new_items(model) if serves else model


def _select_options_on_sample(
    parts: list[Split], options: Options, values: Values, seed: int, log: Log
) -> Options:
    """Of the components and their recency exponents, those that a sample of each split selects."""
    log(f"components are selected on a sample of {len(parts[0].train):,} interactions")
    names = list(options)
    fits = [ComponentFitter(one.train, values, seed, log).fit(names, values) for one in parts]
    blend = select_on_sample(
        _make_all_validation_sets(fits, parts), recency=uses_recency(values, parts[0].train)
    )
    log(f"selected on the sample: {', '.join(blend.weights)}; NDCG at 25 of {blend.ndcg:.4f}")
    return {
        name: [blend.recency_exponents[name]] for name in options if name in blend.recency_exponents
    }


def _fit_and_select(
    splits: list[Split],
    options: Options,
    values: Values,
    seed: int,
    log: Log,
    *,
    keeps_inverses: bool = False,
) -> tuple[FittedComponents, Blend, float]:
    """The blend selected on all splits, its components of the first split, and its temperature."""
    names = list(options)
    fits = [
        ComponentFitter(
            one.train, values, seed, log, keeps_inverses=keeps_inverses and one is splits[0]
        ).fit(names, values)
        for one in splits
    ]
    sets = _make_all_validation_sets(fits, splits)
    recency = uses_recency(values, splits[0].train)
    blend = select_blend(sets, recency=recency, options=options)
    temperature = fit_temperature(fits[0].blend(blend, 1.0).score, sets[:1])
    components = ", ".join(
        f"{name} (recency {blend.recency_exponents[name]})" for name in blend.weights
    )
    log(f"selected: {components}; NDCG at 25 of {blend.ndcg:.4f}")
    if blend.count_exponent:
        log(f"an item had n times weighs n^{blend.count_exponent} times as much in a history")
    return fits[0].select(blend.weights), blend, temperature


def _make_all_validation_sets(
    fits: list[FittedComponents], splits: list[Split]
) -> list[ValidationSet]:
    """The validation sets of all splits, those of the first one first."""
    pairs = zip(fits, splits, strict=True)
    return list(
        chain(*(make_validation_sets(fit.scorers, one, fit.item_ids) for fit, one in pairs))
    )


def choose_options(held_out: Split) -> Options:
    """The components to select from, with the recency exponents to try.

    A second EASE only if one split has users enough; neighbors only if users are compared with few
    others, and not with themselves, as where the held-out users are trained on; co-occurrence in
    either order only where histories are short or many times are equal.
    """
    data, names = held_out.train, list(COMPONENTS)
    same = data.timestamps[1:] == data.timestamps[:-1]
    same &= data.users[1:] == data.users[:-1]
    if len(data) > LONG_HISTORIES * np.count_nonzero(np.diff(data.starts)) and (
        np.count_nonzero(same) < FEW_TIES * len(data)
    ):
        names.remove(SYMMETRIC_COOC)
    if len(held_out.users) >= MIN_VALIDATION_USERS and len(data.item_ids) <= HIGH_REG_MAX_ITEMS:
        names.append(EASE_HIGH_REG)
    if len(data) <= HIGH_REG_MAX_ROWS:
        names.append(FACTORS_HIGH_REG)
    compared = float((data.item_counts.astype(np.float64) ** 2).sum())
    if compared <= MAX_COMPARED_USERS * len(data.user_ids) and data is not held_out.inputs:
        names.append(USER_NEIGHBORS)
    if data.features is not None:
        names.append(CONTENT)
    return {name: RECENCY_EXPONENTS.get(name, (0.0,)) for name in names}


def _default_blend(interactions: Interactions, values: Values, seed: int, log: Log) -> BlendModel:
    """EASE alone, for data without users to select on."""
    exponent = RECENCY_EXPONENTS[EASE][0] if uses_recency(values, interactions) else 0.0
    fitter = ComponentFitter(interactions, values, seed, log)
    blend = Blend({EASE: exponent}, {EASE: DEFAULT_WEIGHT}, 0.0)
    return fitter.with_new_items(fitter.fit([EASE], values).blend(blend, 1.0))


def uses_recency(values: Values, interactions: Interactions) -> bool:
    """Whether recent interactions may weigh more than old ones: not if all have the same time."""
    has_times = bool(np.ptp(interactions.timestamps)) if len(interactions.timestamps) else False
    return has_times and bool(values.get("recency_mask", values.get("apply_recency_bias", True)))


def _measure_and_log(model: BlendModel, held_out: Split, log: Log) -> dict[str, float]:
    metrics = measure(model, held_out)
    log(", ".join(f"{key} {value:.4f}" for key, value in metrics.items() if "/" not in key))
    return metrics
