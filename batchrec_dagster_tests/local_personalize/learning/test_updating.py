"""Updates learn new data nearly as well as a full training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import threads, train_blend
from batchrec_dagster.local_personalize.learning.blend import HELD_OUT, BlendModel
from batchrec_dagster.local_personalize.learning.components import (
    POPULARITY,
    SEQUENCE,
    ItemItemScorer,
    PopularityScorer,
)
from batchrec_dagster.local_personalize.learning.evaluation import evaluate, split
from batchrec_dagster.local_personalize.learning.held_out import HeldOut
from batchrec_dagster.local_personalize.learning.hpo import Search
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    ModelFileError,
    TrainingError,
)
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.training import TrainedModel
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import (
    Row,
    interactions_of,
    lists,
    tastes,
)

pytestmark = pytest.mark.slow

RECIPE = "aws-user-personalization"
NDCG = "normalized_discounted_cumulative_gain_at_25"


def save_model(trained_model: TrainedModel, folder: Path) -> Path:
    trained_model.model.save(folder)
    return folder


def grown() -> list[Row]:
    """Rows after `tastes()`: a new item for even tastes, one for odd, and new users."""
    rows = tastes(users=90)[60 * 12 :]
    for user in range(90):
        # The last item of known users, the first of new ones.
        rows.append((f"u{user}", f"new-{user % 2}", 10**6 if user < 60 else 1_000 * user - 1))
    return rows


def test_an_update_knows_new_items_and_new_users(tmp_path: Path) -> None:
    old = tastes()
    later_interactions = interactions_of([*old, *grown()])
    before = save_model(train(RECIPE, interactions_of(old), {}), tmp_path / "m")
    done = train(RECIPE, later_interactions, {}, previous=before)
    assert isinstance(done.model, BlendModel)
    assert sorted(done.model.item_ids) == sorted(later_interactions.item_ids)
    queried_interactions = interactions_of(
        [("even", "i0", 1), ("even", "i2", 2), ("odd", "i1", 1), ("odd", "i3", 2)]
    )
    even, odd = lists(done.model, ["even", "odd"], queried_interactions, 42)
    assert even.index("new-0") < 12 < even.index("new-1")
    assert odd.index("new-1") < 12 < odd.index("new-0")
    # A new item alone predicts its audience's taste; new users differ from unknown ones.
    fans = interactions_of([("fan", "new-0", 1)])
    [fan] = lists(done.model, ["fan"], fans, 10)
    assert sum(item == "new-0" or int(item[1:]) % 2 == 0 for item in fan if item[:3] != "new") >= 8
    new, unknown = lists(done.model, ["u85", "nobody"], later_interactions, 10)
    assert new != unknown


def test_an_update_is_nearly_as_good_as_a_full_training(tmp_path: Path) -> None:
    rows = tastes(users=400, items=80, items_per_user=16)
    whole = interactions_of(rows)
    held = split(whole, seed=9)
    assert held is not None
    learn = [
        rows[k] for k in np.flatnonzero(~np.isin([r[0] for r in rows], whole.user_ids[held.users]))
    ]
    part = [row for k, row in enumerate(learn) if k % 10 or k < len(learn) / 2]
    before = train(RECIPE, interactions_of(part), {})
    updated_model = train(
        RECIPE, interactions_of(learn), {}, previous=save_model(before, tmp_path / "m")
    )
    full = train(RECIPE, interactions_of(learn), {})
    for done in (updated_model, full):
        assert isinstance(done.model, BlendModel)
    quality = [
        evaluate(done.model, held).ndcg().mean()  # type: ignore[arg-type]
        for done in (updated_model, full)
    ]
    assert quality[0] > 0.9 * quality[1]
    assert updated_model.metrics[NDCG] == pytest.approx(full.metrics[NDCG], rel=0.25)


def test_metrics_are_measured_on_users_of_neither_training(tmp_path: Path) -> None:
    old = tastes(users=100)
    before = train(RECIPE, interactions_of(old), {})
    folder = save_model(before, tmp_path / "m")
    first = HeldOut.load(folder)
    assert first is not None
    later_interactions = interactions_of([*old, *grown()])
    done = train(RECIPE, later_interactions, {}, previous=folder)
    again = HeldOut.load(save_model(done, tmp_path / "n"))
    assert again is not None
    assert set(done.metrics) == set(before.metrics)
    assert again.users.tolist() == first.users.tolist()
    # The measured model does not know an item that only held-out users have.
    lonely_rows = [(str(user), "theirs", 10**7) for user in first.users]
    apart = train(RECIPE, interactions_of([*old, *lonely_rows]), {}, previous=folder)
    measured = HeldOut.load(save_model(apart, tmp_path / "o"))
    assert measured is not None
    position = measured.model.item_ids.tolist().index("theirs")
    assert measured.model.popularity[position] == pytest.approx(np.log(0.5))


def test_repeated_updates_keep_blend_and_hyperparameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tastes()
    before = train(RECIPE, interactions_of(old), {}, search=Search(3))
    assert isinstance(before.model, BlendModel)
    folder = save_model(before, tmp_path / "0")
    monkeypatch.setattr(train_blend, "train_blend", None)  # an update does not train in full
    for step in range(1, 4):
        old += [(f"more{step}-{n}", f"i{n % 40}", n) for n in range(60)]
        done = train(RECIPE, interactions_of(old), {}, previous=folder, search=Search(3))
        assert isinstance(done.model, BlendModel)
        assert done.model.recency_exponents == before.model.recency_exponents
        assert done.model.weights == before.model.weights
        assert done.tuned == before.tuned
        folder = save_model(done, tmp_path / str(step))


def test_an_update_counts_popularity_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Blend({SEQUENCE: 0.6, POPULARITY: 0.0}, {SEQUENCE: 1.0, POPULARITY: 0.1}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, recency, options: choice)
    before = save_model(train(RECIPE, interactions_of(tastes()), {}), tmp_path / "m")
    later_interactions = interactions_of([*tastes(), *grown()])
    model = train(RECIPE, later_interactions, {}, previous=before).model
    assert isinstance(model, BlendModel)
    popular = model.scorers[POPULARITY]
    assert isinstance(popular, PopularityScorer)
    assert popular.counts == pytest.approx(np.exp(model.popularity))
    assert popular.counts.sum() == len(later_interactions)
    assert set(model.scorers) == {SEQUENCE, POPULARITY}


def test_an_update_with_less_data(tmp_path: Path) -> None:
    old = tastes()
    folder = save_model(train(RECIPE, interactions_of(old), {}), tmp_path / "m")
    stored_held_out = HeldOut.load(folder)
    assert stored_held_out is not None
    left = interactions_of([row for row in old if row[0] not in set(stored_held_out.users)][:200])
    done = train(RECIPE, left, {}, previous=folder)
    assert done.metrics == {}
    assert isinstance(done.model, BlendModel)
    assert sorted(done.model.item_ids) == sorted(left.item_ids)
    assert all(lists(done.model, list(left.user_ids), left, 5))
    other = train(RECIPE, interactions_of([("x", "y", 1)]), {}, previous=folder)
    assert lists(other.model, ["x", "z"], interactions_of([("x", "y", 1)]), 3) == [["y"], ["y"]]


def test_other_recipes_cannot_be_updated(tmp_path: Path) -> None:
    data = interactions_of(tastes())
    for recipe in ("aws-popularity-count", "aws-sims", "aws-item-affinity"):
        folder = save_model(train(recipe, data, {}), tmp_path / recipe)
        with pytest.raises(TrainingError, match=f"{recipe} cannot be updated"):
            train(recipe, data, {}, previous=folder)
        with pytest.raises(TrainingError, match="cannot be updated; train it in full"):
            train(RECIPE, data, {}, previous=folder)
    with pytest.raises(ModelFileError, match="is incomplete"):
        train(RECIPE, data, {}, previous=tmp_path / "nowhere")


def test_without_held_out_users_the_training_is_full(tmp_path: Path) -> None:
    alone = [("u", "a", 1), ("u", "b", 2)]
    folder = save_model(train(RECIPE, interactions_of(alone), {}), tmp_path / "m")
    assert not (folder / HELD_OUT).exists()
    log_lines: list[str] = []
    data = interactions_of(tastes())
    done = train(RECIPE, data, {}, previous=folder, log=log_lines.append)
    assert any("full training" in line for line in log_lines)
    assert done.metrics == train(RECIPE, data, {}).metrics


def test_a_model_with_item_item_regression_serves_and_is_then_trained_in_full(
    tmp_path: Path,
) -> None:
    """Earlier versions fitted EASE, whose weights are stored as those of any item pairs."""
    data = interactions_of(tastes())
    later_interactions = train(RECIPE, data, {}).model
    assert isinstance(later_interactions, BlendModel)
    assert later_interactions.held_out is not None
    items = len(later_interactions.item_ids)
    weights = np.random.default_rng(0).normal(size=(items, items)).astype(np.float32)
    ease = ItemItemScorer(csr_matrix(weights))

    def with_ease(model: BlendModel) -> BlendModel:
        return replace(
            model,
            scorers={"ease": ease, "ease-high-reg": ease},
            recency_exponents={"ease": 0.6, "ease-high-reg": 0.0},
            weights={"ease": 2.0, "ease-high-reg": 1.0},
        )

    held_out = replace(
        later_interactions.held_out, model=with_ease(later_interactions.held_out.model)
    )
    replace(with_ease(later_interactions), held_out=held_out).save(tmp_path)
    stored_model = load_model(tmp_path)
    assert isinstance(stored_model, BlendModel)
    histories = Histories(data, stored_model.item_ids)
    history = histories.of_users(np.arange(len(data.user_ids), dtype=np.int32))
    expected = (
        2.0 * history.recency_weights(0.6).toarray() + history.recency_weights(0.0).toarray()
    ) @ weights
    assert stored_model.score(history) == pytest.approx(expected, abs=1e-4)

    log_lines: list[str] = []
    done = train(RECIPE, data, {}, previous=tmp_path, log=log_lines.append)
    assert any("full training" in line for line in log_lines)
    assert isinstance(done.model, BlendModel)
    assert lists(done.model, ["u0"], data, 40) == lists(later_interactions, ["u0"], data, 40)


def test_saving_over_a_model_removes_its_held_out_users(tmp_path: Path) -> None:
    save_model(train(RECIPE, interactions_of(tastes()), {}), tmp_path)
    save_model(train(RECIPE, interactions_of([("u", "a", 1)]), {}), tmp_path)
    assert HeldOut.load(tmp_path) is None


def test_same_bytes_for_any_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tastes(users=120, items=90, items_per_user=25)
    before = save_model(train(RECIPE, interactions_of(old), {}), tmp_path / "m")
    files = []
    for cores in (1, 2):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        rows = [*old, *grown()][:: 1 if cores == 1 else -1]
        done = train(RECIPE, interactions_of(rows), {}, previous=before)
        folder = save_model(done, tmp_path / str(cores))
        files.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")
                      if p.is_file()})  # fmt: skip
    assert files[0] == files[1]
