"""Measures a model on held-out users: its metrics, how sure they are, and what the users chose."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .choices import HeldOutChoices, list_choices
from .evaluation import Split, evaluate
from .evidence import summarize_evidence
from .interactions import (
    Float32,
    History,
    Ids,
    Interactions,
    log_popularity,
    order_by_popularity,
)
from .serving import UserModel


@dataclass(frozen=True)
class PopularityModel(UserModel):
    """Recommends the items with the most interactions, the same to all users."""

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    popularity: Float32
    """(n_items,) log of the counts."""

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        return np.tile(self.popularity, (len(history.lengths), 1))


@dataclass(frozen=True)
class Measurements:
    """What is known of a model from held-out users. It is empty if no user was held out."""

    metrics: dict[str, float] = field(default_factory=dict)
    """By the names of GetSolutionMetrics."""

    evidence: dict[str, float] = field(default_factory=dict)
    """See `summarize_evidence`."""

    choices: HeldOutChoices | None = None
    """What the tested users chose; None for user segments."""


def measure(model: UserModel, held_out: Split) -> Measurements:
    """The metrics of `evaluate`, the evidence for them, and the choices of the tested users."""
    evaluation = evaluate(model, held_out)
    baseline = evaluate(fit_popularity(held_out.train), held_out)
    users, model_rows, baseline_rows = np.intersect1d(
        evaluation.users, baseline.users, return_indices=True
    )
    lengths = np.diff(held_out.inputs.starts)
    evidence = summarize_evidence(
        evaluation.ndcg()[model_rows], baseline.ndcg()[baseline_rows], lengths[users]
    )
    choices = list_choices(evaluation, baseline, held_out.inputs.user_ids, lengths)
    return Measurements(evaluation.summary(), evidence, choices)


def fit_popularity(data: Interactions) -> PopularityModel:
    """The baseline: the items with the most interactions."""
    order = order_by_popularity(data)
    return PopularityModel(data.item_ids[order], log_popularity(data, order))
