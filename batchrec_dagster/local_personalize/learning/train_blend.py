"""Trains the blend model.

A training selects the blend and measures it on held-out users, then fits it on all data.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from batchrec_dagster.personalize.recipes import Values

from .blend import BlendModel
from .components import (
    CONTENT,
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    FactorScorer,
    ItemItemScorer,
    Scorer,
)
from .evaluation import Split, split, split_histories
from .fit_components import ComponentFitter, FittedComponents
from .interactions import Interactions, Log
from .measurements import Measurements, measure
from .model_selection import (
    RECENCY_EXPONENTS,
    Blend,
    Options,
    fit_temperature,
    select_blend,
    select_repeats,
)
from .sampling import is_large, sample
from .validation import ValidationSet, make_validation_set, make_validation_sets

COMPONENTS = (SEQUENCE, SYMMETRIC_COOC, FACTORS, POPULARITY)
HIGH_REG_MAX_ROWS = 250_000  # more interactions are worth less regularization
# Where users have more interactions on average, and fewer of these have the time of the one before,
# the order in which they came is known so well that co-occurrence in either order adds nothing.
LONG_HISTORIES = 100
FEW_TIES = 0.2
# Co-occurrence and factors are as good without the held-out users where these are a smaller share.
FEW_HELD_OUT = 0.02
# Of co-occurrence alone, so that the softmax is about as wide as after a selection.
DEFAULT_WEIGHT = 10.0

# With fewer users held out, a second split is fitted too, since few users select noise.
MIN_VALIDATION_USERS = 200
SECOND_HELD_OUT_SHARE = 0.3


def train_blend(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[BlendModel, Measurements]:
    """The model and what was measured, which is nothing when no users can be held out."""
    held_out = split(interactions)
    if held_out is None:
        log("too little data to hold out users: no metrics, default blend")
        return _default_blend(interactions, values, seed, log), Measurements()
    splits = [held_out]
    if len(held_out.users) < MIN_VALIDATION_USERS:
        second = split(interactions, SECOND_HELD_OUT_SHARE)
        splits += [second] if second else []
    options = choose_options(held_out)
    large = is_large(interactions)
    if large:
        samples = [sample(part, seed) for part in splits]
        options = _select_options_on_sample(samples, options, values, seed, log)
    selection, blend, temperature = _fit_and_select(splits, options, values, seed, log)
    # The model without the held-out users, on whom it is measured.
    test_model = selection.blend(blend, temperature)
    with_seen = make_validation_set({}, held_out, test_model.item_ids, include_seen=True)
    repeats = select_repeats(test_model.score, with_seen, test_model.repeat_rates)
    if repeats is not None:
        log(f"repeats: {repeats.share:.0%} of the next interactions, recency {repeats.exponent}")
    test_model = replace(test_model, repeats=repeats)
    measurements = _measure_and_log(test_model, held_out, log)
    test_model = replace(test_model)  # frees the sums of weights that it kept to score
    held_out_users = len(held_out.users)
    del splits, held_out  # frees these copies of the data before the largest fit
    if large:
        # What was fitted on nearly all users is not fitted again for a few more.
        few = held_out_users <= FEW_HELD_OUT * len(interactions.user_ids)
        model = _fit_on_all(test_model, interactions, values, seed, log, refits=not few)
    else:
        fitter = ComponentFitter(interactions, values, seed, log, start=selection)
        fitted = fitter.fit(list(blend.weights), values)
        model = fitter.with_new_items(replace(fitted.blend(blend, temperature), repeats=repeats))
    return model, measurements


def train_blend_on_histories(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[BlendModel, BlendModel | None, Split | None]:
    """The model of all data, and what it is measured with.

    That is the model trained on the oldest part of each history, and the split into the oldest and
    the newest parts. Both are None when no user has enough interactions.
    """
    held_out = split_histories(interactions)
    if held_out is None:
        log("no user has enough interactions to hold some out: no metrics, default blend")
        return _default_blend(interactions, values, seed, log), None, None
    options = choose_options(held_out)
    selection, blend, temperature = _fit_and_select([held_out], options, values, seed, log)
    fitter = ComponentFitter(interactions, values, seed, log, start=selection)
    fitted = fitter.fit(list(blend.weights), values)
    return fitted.blend(blend, temperature), selection.blend(blend, temperature), held_out


def _fit_on_all(
    old: BlendModel,
    interactions: Interactions,
    values: Values,
    seed: int,
    log: Log,
    *,
    refits: bool,
) -> BlendModel:
    """The blend of a model without the held-out users, fitted on all data.

    refits: whether co-occurrence and factors are fitted again. Otherwise they stay, and do not
        score items that only held-out users have.
    """
    start_time = time.monotonic()
    fitter = ComponentFitter(interactions, values, seed, log)
    old_index = fitter.old_index(old)
    scorers: dict[str, Scorer] = {}
    for name, scorer in old.scorers.items():
        is_cooccurrence = name in (SEQUENCE, SYMMETRIC_COOC)
        stays = not refits and (is_cooccurrence or isinstance(scorer, FactorScorer))
        if stays and isinstance(scorer, ItemItemScorer | FactorScorer):
            scorers[name] = scorer.with_items(old_index)
        elif (
            is_cooccurrence
            or name == POPULARITY
            or (name == CONTENT and interactions.features is not None)
        ):
            scorers[name] = fitter.fit([name], values).scorers[name]
        elif isinstance(scorer, FactorScorer):
            scorers[name] = fitter.resume_factors(scorer, old_index)
    seconds = time.monotonic() - start_time
    log(f"fitted on all: {len(interactions):,} interactions in {seconds:.1f} s")
    model = BlendModel(
        fitter.item_ids,
        fitter.popularity,
        scorers,
        old.recency_exponents,
        old.weights,
        repeats=old.repeats,
        repeat_rates=fitter.repeat_rates,
    )
    return fitter.with_new_items(model)


def _select_options_on_sample(
    samples: list[Split], options: Options, values: Values, seed: int, log: Log
) -> Options:
    """Of the options, the components and recency exponents that are selected on the samples.

    samples: a sample of each split.
    """
    log(f"components are selected on a sample of {len(samples[0].train):,} interactions")
    names = list(options)
    fits = [ComponentFitter(part.train, values, seed, log).fit(names, values) for part in samples]
    sets = _make_all_validation_sets(fits, samples)
    blend = select_blend(sets, recency=uses_recency(values, samples[0].train))
    log(f"selected on the sample: {', '.join(blend.weights)}; NDCG at 25 of {blend.ndcg:.4f}")
    return {
        name: [blend.recency_exponents[name]] for name in options if name in blend.recency_exponents
    }


def _fit_and_select(
    splits: list[Split], options: Options, values: Values, seed: int, log: Log
) -> tuple[FittedComponents, Blend, float]:
    """The components of the first split, the blend selected on all splits, and its temperature."""
    names = list(options)
    fits = [ComponentFitter(part.train, values, seed, log).fit(names, values) for part in splits]
    sets = _make_all_validation_sets(fits, splits)
    recency = uses_recency(values, splits[0].train)
    blend = select_blend(sets, recency=recency, options=options)
    temperature = fit_temperature(fits[0].blend(blend, 1.0).score, sets[:1])
    components = ", ".join(
        f"{name} (recency {blend.recency_exponents[name]})" for name in blend.weights
    )
    log(f"selected: {components}; NDCG at 25 of {blend.ndcg:.4f}")
    return fits[0].select(blend.weights), blend, temperature


def _make_all_validation_sets(
    fits: list[FittedComponents], splits: list[Split]
) -> list[ValidationSet]:
    """The validation sets of all splits, those of the first one first."""
    sets: list[ValidationSet] = []
    for fitted, held_out in zip(fits, splits, strict=True):
        sets += make_validation_sets(fitted.scorers, held_out, fitted.item_ids)
    return sets


def choose_options(held_out: Split) -> Options:
    """The components to select from, with the recency exponents to try.

    Co-occurrence in either order is among them where histories are short or many times are equal.
    """
    data = held_out.train
    names = list(COMPONENTS)
    has_time_before = data.timestamps[1:] == data.timestamps[:-1]
    has_time_before &= data.users[1:] == data.users[:-1]
    has_few_ties = np.count_nonzero(has_time_before) < FEW_TIES * len(data)
    if has_few_ties and len(data) > LONG_HISTORIES * np.count_nonzero(np.diff(data.starts)):
        names.remove(SYMMETRIC_COOC)
    if len(data) <= HIGH_REG_MAX_ROWS:
        names.append(FACTORS_HIGH_REG)
    if data.features is not None:
        names.append(CONTENT)
    return {name: RECENCY_EXPONENTS.get(name, (0.0,)) for name in names}


def _default_blend(interactions: Interactions, values: Values, seed: int, log: Log) -> BlendModel:
    """Co-occurrence in either order alone, for data without users to select on."""
    recency = uses_recency(values, interactions)
    exponent = RECENCY_EXPONENTS[SYMMETRIC_COOC][0] if recency else 0.0
    fitter = ComponentFitter(interactions, values, seed, log)
    blend = Blend({SYMMETRIC_COOC: exponent}, {SYMMETRIC_COOC: DEFAULT_WEIGHT}, 0.0)
    return fitter.with_new_items(fitter.fit([SYMMETRIC_COOC], values).blend(blend, 1.0))


def uses_recency(values: Values, interactions: Interactions) -> bool:
    """Whether recent interactions may weigh more than old ones.

    They may not if all have the same time, or if a hyperparameter says so.
    """
    has_times = bool(np.ptp(interactions.timestamps)) if len(interactions.timestamps) else False
    return has_times and bool(values.get("recency_mask", values.get("apply_recency_bias", True)))


def _measure_and_log(model: BlendModel, held_out: Split, log: Log) -> Measurements:
    """What is measured of the model on held-out users. Its metrics are logged too."""
    measurements = measure(model, held_out)
    log(", ".join(f"{key} {value:.4f}" for key, value in measurements.metrics.items()))
    return measurements
