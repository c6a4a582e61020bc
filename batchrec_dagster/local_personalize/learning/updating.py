"""Training mode UPDATE: what is new taken in, without choosing or regressing all over again.

The choice of parts and the regression's weights stay; items that are new to it are regressed on
each other item alone. The co-occurrence, which is cheap, is counted anew, and the factors start
from where they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning import ease, factorization
from batchrec_dagster.local_personalize.learning.blend_model import HeldOut, PersonalizationModel
from batchrec_dagster.local_personalize.learning.components import Factors, ItemWeights, Part
from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.fit_components import (
    KEPT_WEIGHTS,
    Fitting,
    Values,
    regularization,
)
from batchrec_dagster.local_personalize.learning.interactions import (
    Interactions,
    TrainingError,
    positions,
)
from batchrec_dagster.local_personalize.learning.model import load_model
from batchrec_dagster.local_personalize.learning.model_selection import EITHER, POPULARITY, SEQUENCE
from batchrec_dagster.local_personalize.learning.split import split_users

Log = Callable[[str], None]


def update(
    previous: Path, interactions: Interactions, seed: int, log: Log
) -> tuple[PersonalizationModel, dict[str, float], Values] | None:
    """The model in the folder `previous` with all interactions of now taken in.

    Its metrics are measured on the users held out before, as many as are still there, by a model
    that was updated without them. Also the hyperparameters kept. None when the model says nothing
    of how it was measured, so that there is nothing to start from.
    """
    old = load_model(previous)
    if not isinstance(old, PersonalizationModel):
        raise TrainingError(f"the model in {previous} is not one that can be updated")
    before = HeldOut.load(previous)
    if before is None:
        log("the earlier version cannot be updated, so this is a full training")
        return None
    values = before.hyperparameters
    held = np.sort(positions(interactions.user_ids, before.users))
    held = held[held >= 0]
    held = held[np.diff(interactions.starts)[held] >= 2]
    metrics: dict[str, float] = {}
    measured = before.model
    if len(held) and len(held) < len(interactions.user_ids):
        held_out = split_users(interactions, held)
        measured = _renewed(before.model, held_out.train, values, seed, log)
        metrics = evaluate(measured, held_out).summary()
        log("metrics: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    model = _renewed(old, interactions, values, seed, log)
    return replace(model, held_out=HeldOut(measured, before.users, values)), metrics, values


def _renewed(
    old: PersonalizationModel, interactions: Interactions, values: Values, seed: int, log: Log
) -> PersonalizationModel:
    began = time.monotonic()
    fitting = Fitting(interactions, values, seed, log)
    was = positions(old.item_ids, fitting.item_ids).copy()  # -1: new
    # An item of a count of 0 was known by name only.
    was[(was >= 0) & (old.popularity[was] < 0)] = -1
    parts: dict[str, Part] = {}
    for name, part in old.parts.items():
        if name in (SEQUENCE, EITHER, POPULARITY):
            parts[name] = fitting.parts([name], values).parts[name]
        elif isinstance(part, ItemWeights):
            parts[name] = ItemWeights(
                ease.extend(
                    part.weights,
                    was,
                    fitting.matrix,
                    regularization=regularization(name),
                    kept=KEPT_WEIGHTS,
                )
            )
        elif isinstance(part, Factors):
            start = _moved(part.item_factors, was)
            parts[name] = factorization.fit(
                fitting.matrix, dimension=start.shape[1], seed=seed, start=start
            )
    log(f"updated: {len(interactions):,} interactions in {time.monotonic() - began:.1f} s")
    return PersonalizationModel(fitting.item_ids, fitting.popularity, parts, old.powers, old.shares)


def _moved(factors: npt.NDArray[np.float32], was: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """The factors in the order of now, zero where an item is new."""
    moved = factors[was]
    moved[was < 0] = 0
    return moved
