"""Scores items by what they are: the component of the Items dataset, and items that are new.

The weights of the features are learned in closed form: which features of a history predict which
features of all its items. They have no entry for a single item, so they score new ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

from .interactions import Float32, Float64, History
from .store import Arrays, pack_matrix, require_array, unpack_matrix
from .threads import single_threaded_blas

MAX_USERS = 20_000  # enough to fit the weights of at most 500 features on
USER_REGULARIZATION = 0.01  # times the number of users
ITEM_REGULARIZATION = 1.0


@dataclass(frozen=True)
class ContentScorer:
    """Features of a history, times the weights between features, times the features of items."""

    kind: ClassVar[str] = "content"

    features: csr_matrix
    """(n_items, features) float32."""

    weights: Float32
    """(features, features): a row is a feature of a history, a column one of an item to score."""

    def score(self, history: History, exponent: float) -> Float32:
        profiles = (history.recency_weights(exponent) @ self.features).toarray() @ self.weights
        return np.ascontiguousarray((self.features @ profiles.T).T, dtype=np.float32)

    @property
    def n_items(self) -> int:
        return int(self.features.shape[0])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**pack_matrix(self.features), "weights": self.weights}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ContentScorer:
        """The scorer that gave the arrays. Raises KeyError, or ValueError that names the file."""
        weights = require_array(arrays, "weights", [np.float32], [None, None])
        features = len(weights)
        require_array(arrays, "weights", [np.float32], [features, features])
        return cls(unpack_matrix(arrays, features), weights)


def fit(matrix: csr_matrix, features: csr_matrix) -> ContentScorer:
    """The scorer of items by their features.

    It is two ridge regressions: of the interactions of users on the features of their histories,
    and on the features of the items. With U = X F, the weights are (UᵀU + aI)⁻¹ UᵀXF (FᵀF + bI)⁻¹.

    matrix: X, (users, n_items) of ones.
    features: F, (n_items, features).
    """
    if matrix.shape[0] > MAX_USERS:
        matrix = matrix[np.linspace(0, matrix.shape[0] - 1, MAX_USERS).astype(np.int64)]
    size = features.shape[1]
    lengths = np.maximum(np.diff(matrix.indptr), 1)
    profiles = (diags(1 / np.sqrt(lengths)) @ matrix @ features).toarray().astype(np.float64)
    item_gram: Float64 = (features.T @ features).toarray().astype(np.float64)
    with single_threaded_blas():
        user_gram = profiles.T @ profiles
        penalty = USER_REGULARIZATION * matrix.shape[0] * np.eye(size)
        weights = np.linalg.solve(user_gram + penalty, user_gram)
        weights = np.linalg.solve(item_gram + ITEM_REGULARIZATION * np.eye(size), weights.T).T
    return ContentScorer(features, weights.astype(np.float32))
