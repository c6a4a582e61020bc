"""Events that count more than others."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from batchrec_dagster.local_personalize.learning import cooccurrence
from batchrec_dagster.local_personalize.learning.components import fit_factors
from batchrec_dagster.local_personalize.learning.evaluation import split
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    History,
    Interactions,
)
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import (
    Row,
    for_users,
    tastes,
)


def weighted_interactions(rows: list[tuple[str, str, int, float]]) -> Interactions:
    frame = pl.DataFrame(rows, schema=["USER_ID", "ITEM_ID", "TIMESTAMP", "WEIGHT"], orient="row")
    return Interactions.from_frame(frame.cast({"WEIGHT": pl.Float32}))


def histories(data: Interactions) -> History:
    return Histories(data, data.item_ids).of_users(np.arange(len(data.user_ids), dtype=np.int32))


@pytest.fixture
def shop() -> Interactions:
    """Views (0.25) and purchases (1) of 40 users."""
    rng = np.random.default_rng(0)
    rows: list[Row] = tastes(40, 16, 8)
    return weighted_interactions([(*row, float(rng.choice([0.25, 1.0]))) for row in rows])


def test_an_item_weighs_as_much_as_its_weightiest_event() -> None:
    data = weighted_interactions(
        [("u", "b", 2, 0.3), ("u", "a", 1, 1.0), ("u", "a", 3, 0.3), ("v", "b", 1, 0.5)]
    )
    history = histories(data)
    assert history.recency_weights(0.0).toarray().tolist() == [
        [1.0, pytest.approx(0.3)],
        [0.0, 0.5],
    ]
    assert history.slice(1, 2).recency_weights(0.0).toarray().tolist() == [[0.0, 0.5]]
    assert history.recency_weights(1.0).toarray()[0] == pytest.approx([1.0, 0.15])


def test_splits_keep_the_weights(shop: Interactions) -> None:
    held_out = split(shop)
    assert held_out is not None
    parts = [held_out.train, held_out.inputs, held_out.truth]
    assert shop.weights is not None
    assert all(part.weights is not None for part in parts)
    joined_weights = np.concatenate([part.weights for part in parts if part.weights is not None])
    assert sorted(joined_weights) == sorted(shop.weights)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("cells", [0, 10**6])  # the sparse sums, and the dense ones
def test_a_pair_counts_the_product_of_its_weights(
    symmetric: bool, cells: int, shop: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooccurrence, "CELLS", cells)
    history = histories(shop)
    n, window = history.n_items, 3
    assert history.weights is not None
    expected_weights = np.zeros((n, n))
    for first, last in zip(history.starts, history.starts[1:], strict=False):
        for place in range(first, last):  # from new to old
            for earlier_place in range(place + 1, min(place + 1 + window, last)):
                pair = history.items[earlier_place], history.items[place]
                count = history.weights[earlier_place] * history.weights[place]
                count *= (earlier_place - place) ** -cooccurrence.DISTANCE_EXPONENT
                expected_weights[pair] += count
                expected_weights[pair[::-1]] += count * symmetric
    counts = np.bincount(history.items, minlength=n) + cooccurrence.POPULARITY_SHIFT
    expected_weights *= np.outer(counts, counts) ** -cooccurrence.POPULARITY_EXPONENT
    found = cooccurrence.fit(history, window=window, neighbors=n, symmetric=symmetric)
    np.testing.assert_allclose(found.toarray(), expected_weights, atol=1e-6)


def test_factors_fit_weighty_events_more_closely(shop: Interactions) -> None:
    history = histories(shop)
    scores = fit_factors(history.recency_weights(0.0), factors=4, seed=0).score(history, 0.0)
    owner = np.repeat(np.arange(len(scores)), history.lengths)
    fitted = scores[owner, history.items]
    assert history.weights is not None
    assert fitted[history.weights == 1].mean() > fitted[history.weights < 1].mean() + 0.02


def test_what_is_bought_comes_before_what_is_viewed() -> None:
    """Everyone views a pair of items in turn; who likes evens buys the first of each pair."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(80):
        for time, pair in enumerate(rng.permutation(12)[:8]):
            for place in rng.permutation(2):
                weight = 1.0 if place == 0 else 0.1
                rows.append((f"u{user}", f"{pair}-{place}", 10 * time + int(place), weight))
    bought = []
    for weights in (True, False):
        data = weighted_interactions([(*row[:3], row[3] if weights else 1.0) for row in rows])
        model = for_users(train("aws-user-personalization-v2", data, {}).model)
        [chunk] = model.recommend(["u1", "u2", "u3"], data, 24)
        position_of_item = {str(item): n for n, item in enumerate(model.item_ids)}
        firsts = [position_of_item[f"{pair}-0"] for pair in range(12)]
        bought.append(np.isin(chunk.items[:, :8], firsts).mean())
    assert bought[0] > bought[1]
