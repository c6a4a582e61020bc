"""The final fit goes on from the selection's, where that gives the same."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import fit_components, inverse, train_blend
from batchrec_dagster.local_personalize.learning.components import EASE, ItemItemScorer
from batchrec_dagster.local_personalize.learning.inverse import Inverse
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.models import BlendModel, SegmentationModel
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import Row, interactions_of, tastes

ROWS = [*tastes(users=120), ("u0", "of the first alone", 10**7)]
FEW_USERS = tastes(users=30, items=90)


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what was added to an inverse. EASE alone is selected, on one split."""
    monkeypatch.setattr(fit_components, "REGULARIZATION", 5.0)
    monkeypatch.setattr(train_blend, "MIN_VALIDATION_USERS", 1)
    alone = Blend({EASE: 0.6}, {EASE: 1.0}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, **_: alone)
    shapes: list[tuple[int, ...]] = []
    for kind in get_args(Inverse):
        add = kind.add

        def counted(self: Inverse, rows: csr_matrix, add: Any = add) -> None:
            shapes.append(rows.shape)
            add(self, rows)

        monkeypatch.setattr(kind, "add", counted)
    return shapes


def model(rows: list[Row] = ROWS) -> BlendModel:
    found = train("aws-user-personalization", interactions_of(rows), {}).model
    assert isinstance(found, BlendModel)
    return found


def weights(trained: BlendModel) -> npt.NDArray[np.float32]:
    ease = trained.scorers[EASE]
    assert isinstance(ease, ItemItemScorer)
    return np.asarray(ease.weights.toarray())


@pytest.mark.parametrize(("rows", "held_out", "items"), [(ROWS, 12, 41), (FEW_USERS, 3, 86)])
def test_ease_of_all_users_is_that_of_the_others_and_the_held_out_ones(
    rows: list[Row],
    held_out: int,
    items: int,
    added: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    went_on = model(rows)
    assert added == [(held_out, items)]
    monkeypatch.setattr(inverse, "MAX_ADDED", 0)
    anew = model(rows)
    assert len(added) == 1
    assert list(went_on.item_ids) == list(anew.item_ids)
    assert weights(went_on) == pytest.approx(weights(anew), abs=1e-5)
    assert np.count_nonzero(weights(anew)) > 1000


def test_with_other_users_than_before_ease_is_fitted_anew(
    added: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Percentiles of all users' histories may leave out some who were trained on."""
    monkeypatch.setattr(
        fit_components,
        "drop_extreme_users",
        lambda data, _: data if len(data) < len(ROWS) else data.filter(data.users > 0),
    )
    anew = model()
    assert added == []
    assert np.count_nonzero(weights(anew)) > 1000


def test_a_training_on_the_oldest_parts_of_all_histories_is_fitted_anew(
    added: list[tuple[int, ...]],
) -> None:
    segmentation = train("aws-item-affinity", interactions_of(ROWS), {}).model
    assert isinstance(segmentation, SegmentationModel)
    assert EASE in segmentation.model.scorers
    assert added == []
