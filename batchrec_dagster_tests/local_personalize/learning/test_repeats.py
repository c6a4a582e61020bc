"""Items that users have again and again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.evaluation import evaluate, split
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    Interactions,
)
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.repeated_items import Repeats
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import (
    Row,
    interactions_of,
    lists,
    tastes,
)


def staples(users: int = 60) -> list[Row]:
    """Users who have three items of their own again and again, and others now and then."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        own, others = np.split(rng.permutation(40)[:12], [3])
        for time in range(30):
            item = rng.choice(own) if rng.random() < 0.8 else rng.choice(others)
            rows.append((f"u{user}", f"i{item}", time))
    return rows


@pytest.fixture(scope="module")
def data() -> Interactions:
    return interactions_of(staples())


@pytest.fixture(scope="module")
def model(data: Interactions) -> BlendModel:
    trained = train("aws-user-personalization", data, {}).model
    assert isinstance(trained, BlendModel)
    return trained


def test_what_users_have_again_leads_their_lists(data: Interactions, model: BlendModel) -> None:
    assert model.repeats is not None
    assert 0.5 < model.repeats.share < 0.99
    counts = Histories(data, model.item_ids).of_users(np.array([0], np.int32))
    assert counts.counts is not None
    often = model.item_ids[counts.items[np.argsort(-counts.counts)[:3]]]
    user = str(data.user_ids[0])
    assert set(lists(model, [user], data, 3)[0]) == set(often)
    held_out = split(data)
    assert held_out is not None
    with_seen = evaluate(model, held_out, include_seen=True).ndcg()
    without = evaluate(replace(model, repeats=None), held_out, include_seen=True).ndcg()
    assert with_seen.mean() > without.mean() + 0.1


def test_lists_of_new_items_do_not_depend_on_repeats(data: Interactions, model: BlendModel) -> None:
    held_out = split(data)
    assert held_out is not None
    ours, plain = (evaluate(one, held_out) for one in (model, replace(model, repeats=None)))
    assert np.array_equal(ours.recommended, plain.recommended)


def test_repeats_are_saved(data: Interactions, model: BlendModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, BlendModel)
    assert loaded.repeats == model.repeats
    assert model.repeat_rates is not None
    np.testing.assert_array_equal(loaded.repeat_rates, model.repeat_rates)
    users = [str(user) for user in data.user_ids]
    assert lists(loaded, users, data, 5) == lists(model, users, data, 5)
    replace(model, repeat_rates=None).save(tmp_path)  # nobody had any item again
    loaded = load_model(tmp_path)
    assert isinstance(loaded, BlendModel)
    assert loaded.repeats == model.repeats
    assert loaded.repeat_rates is None
    replace(model, repeats=None).save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, BlendModel)
    assert loaded.repeats is None


def test_what_other_users_had_again_comes_again_sooner() -> None:
    rows = staples()
    # As many users had each; of milk they had some again, of gifts none. One user had both, once.
    rows += [(f"v{user}", "milk", time) for user in range(60) for time in (40, 50, 60)]
    rows += [(f"w{user}", "gift", 60) for user in range(60)]
    rows += [("new", item, 70) for item in ("milk", "gift")]
    data = interactions_of(rows)
    model = train("aws-user-personalization", data, {}).model
    assert isinstance(model, BlendModel)
    assert model.repeats is not None
    assert model.repeat_rates is not None
    milk, gift = (list(model.item_ids).index(item) for item in ("milk", "gift"))
    # 61 users, 60 of whom had it again; the prior is 30 users with the share of all items.
    share = _share(data)
    shares = [(users + 30 * share) / 91 / share for users in (60, 0)]
    np.testing.assert_allclose(model.repeat_rates[[milk, gift]], shares, rtol=1e-5)
    histories = Histories(data, model.item_ids)
    history = histories.of_users(histories.users(["new"]))
    logits = np.zeros((1, len(model.item_ids)), dtype=np.float32)
    model.repeats.add(logits, history, model.repeat_rates)
    assert logits[0, milk] > logits[0, gift]


def _share(data: Interactions) -> float:
    """Of the pairs of a user and an item, the share with several interactions."""
    _, counts = np.unique(np.stack([data.users, data.items]), axis=1, return_counts=True)
    return float((counts > 1).mean())


def test_films_have_no_repeats() -> None:
    trained = train("aws-user-personalization", interactions_of(tastes()), {}).model
    assert isinstance(trained, BlendModel)
    assert trained.repeats is None


def test_a_repeat_is_as_likely_as_its_share(data: Interactions, model: BlendModel) -> None:
    history = Histories(data, model.item_ids).of_users(np.arange(5, dtype=np.int32))
    logits = replace(model, repeats=None).score(history)
    before = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rates = np.linspace(0.5, 2.0, len(model.item_ids), dtype=np.float32)
    Repeats(0.25, 0.3).add(logits, history, rates)
    after = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chance = np.zeros(before.shape)
    owner = np.repeat(np.arange(5), history.lengths)
    assert history.counts is not None
    chance[owner, history.items] = history.counts * (1 + history.ranks) ** -0.3
    chance *= rates
    expected = 0.25 * chance / chance.sum(axis=1, keepdims=True) + 0.75 * before
    np.testing.assert_allclose(after, expected, rtol=1e-4)


def test_looking_at_what_was_seen_leaves_the_history_in_order(data: Interactions) -> None:
    history = Histories(data, data.item_ids).of_users(np.arange(5, dtype=np.int32))
    items = history.items.copy()
    assert (history.seen > 0).nnz == len(items)
    assert np.array_equal(history.items, items)
