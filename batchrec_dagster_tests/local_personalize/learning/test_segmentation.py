"""Segments of users, compared with plain calculations, and with unusual data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import (
    evaluation,
    serving,
    threads,
)
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.components import ItemItemScorer
from batchrec_dagster.local_personalize.learning.evaluation import Split, split_histories
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    History,
    Ids,
    Int32,
    Interactions,
    ModelFileError,
    find_positions,
)
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.segment_attributes import (
    SegmentAttributes,
    choose_attribute_fields,
    index_attributes,
)
from batchrec_dagster.local_personalize.learning.segmentation import SegmentationModel
from batchrec_dagster.local_personalize.learning.training import measure_repeat_factor
from batchrec_dagster.local_personalize.learning.validation import (
    ValidationSet,
    make_validation_set,
)
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.schemas import Field
from batchrec_dagster_tests.local_personalize.learning.support import Row, interactions_of, tastes

RECIPES = ["aws-item-affinity", "aws-item-attribute-affinity"]


def model_of(
    data: Interactions, recipe: str = RECIPES[0], **hyperparameters: str
) -> SegmentationModel:
    model = train(recipe, data, hyperparameters).model
    assert isinstance(model, SegmentationModel)
    return model


def queries_of(*items: Sequence[int]) -> list[npt.NDArray[np.int32]]:
    return [np.array(one, np.int32) for one in items]


def plain_segment(
    model: SegmentationModel, data: Interactions, items: Sequence[int], size: int
) -> list[int]:
    """The segment, calculated user by user."""
    histories = Histories(data, model.item_ids)
    found = []
    for user in range(len(data.user_ids)):
        history = histories.of_users(np.array([user], np.int32))
        logits = model.model.score(history)[0].astype(np.float64)
        share = np.exp(logits - logits.max())
        share /= share.sum()
        share[history.items] *= model.repeat_factor
        found.append(share[sorted(set(items))].sum() * max(1, history.lengths[0]) ** 0.5)
    return sorted(range(len(found)), key=lambda user: -found[user])[:size]


def test_segments_match_a_calculation_user_by_user() -> None:
    data = interactions_of(tastes())
    model = model_of(data)
    items = [[0], [7], list(range(0, 40, 3)), [39, 39, 2], []]
    found = model.segment(queries_of(*items), data, 20)
    for query, segment in zip(items[:-1], found, strict=False):
        assert segment.tolist() == plain_segment(model, data, query, 20)
    assert found[-1].tolist() == list(range(20))  # nothing asked: nobody before another


def test_users_who_share_the_taste_come_first() -> None:
    data = interactions_of(tastes(users=100))
    model = model_of(data)
    [segment] = model.segment(queries_of([model.item_ids.tolist().index("i38")]), data, 20)
    assert sum(int(data.user_ids[user][1:]) % 2 == 0 for user in segment) >= 18
    # Few have had these: people rarely come back to what they had.
    even = [model.item_ids.tolist().index(f"i{n}") for n in range(30, 40, 2)]
    [fans] = model.segment(queries_of(even), data, 40)
    assert sum(int(data.user_ids[user][1:]) % 2 == 0 for user in fans) >= 30


def test_sizes_masks_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = interactions_of(tastes())
    model = model_of(data)
    queries = queries_of([3], [4, 5])
    everyone = [segment.tolist() for segment in model.segment(queries, data, 5_000_000)]
    assert [sorted(segment) for segment in everyone] == [list(range(60))] * 2
    monkeypatch.setattr(serving, "EFFICIENT_CHUNK", 7)
    monkeypatch.setattr(serving, "CHUNK_SCORES", 40)  # chunks of seven users, of 40 items
    mask = np.arange(60) % 3 == 0
    calls: list[int] = []
    found = model.segment(queries, data, 9, users=mask, checkpoint=calls.append)
    assert [segment.tolist() for segment in found] == [
        [user for user in segment if mask[user]][:9] for segment in everyone
    ]
    assert calls == [7, 7, 6]
    nobody = model.segment(queries, data, 9, users=np.zeros(60, bool))
    assert [segment.tolist() for segment in nobody] == [[], []]
    assert model.segment([], data, 9) == []


def test_a_checkpoint_can_stop_it() -> None:
    data = interactions_of(tastes())

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        model_of(data).segment(queries_of([0]), data, 5, checkpoint=stop)


def test_users_new_since_the_training_are_ranked_too() -> None:
    rows = tastes()
    model = model_of(interactions_of(rows))
    later_interactions = interactions_of(
        [*rows, *(("fan", f"i{2 * n}", 9 + n) for n in range(3, 20))]
    )
    [segment] = model.segment(
        queries_of([model.item_ids.tolist().index("i0")]), later_interactions, 3
    )
    assert "fan" in later_interactions.user_ids[segment]


def test_the_repeat_factor_is_measured() -> None:
    films = [(f"u{u}", f"i{(u + n) % 30}", n) for u in range(40) for n in range(12)]
    bread = [(f"u{u}", f"i{(u + n % 3) % 30}", n) for u in range(40) for n in range(12)]
    assert (
        model_of(interactions_of(films)).repeat_factor
        < 0.1
        < 10
        < model_of(interactions_of(bread)).repeat_factor
    )


def test_how_often_is_over_how_often_the_shares_say() -> None:
    # Two items, equally likely for all. Of 4 users who met one, 1 meets it again, 3 the other.
    rows = [(f"u{n}", "a", 0) for n in range(4)]
    even = BlendModel(
        np.array(["a", "b"], dtype=object),
        np.zeros(2, np.float32),
        {"none": ItemItemScorer(csr_matrix((2, 2), dtype=np.float32))},
        {"none": 0.0},
        {"none": 1.0},
    )
    history = Histories(interactions_of(rows), even.item_ids).of_users(np.arange(4, dtype=np.int32))
    truth = csr_matrix(np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32))
    assert measure_repeat_factor(
        even, ValidationSet({}, history, truth, np.arange(4, dtype=np.int32))
    ) == pytest.approx(1.5 / 3.5)
    nobody = History(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 2)
    assert (
        measure_repeat_factor(
            even, ValidationSet({}, nobody, csr_matrix((0, 2)), np.zeros(0, np.int32))
        )
        == 1.0
    )


def test_split_histories_splits_each_user() -> None:
    data = interactions_of([("u", f"i{n}", n) for n in range(10)] + [("v", "i0", 1), ("v", "i9", 2)]
                           + [("w", "i0", 1)])  # fmt: skip
    held = split_histories(data)
    assert held is not None
    assert held.train.timestamps[held.train.users == 0].tolist() == list(range(8))
    assert held.truth.timestamps[held.truth.users == 0].tolist() == [8, 9]
    assert data.user_ids[held.users].tolist() == ["u", "v"]
    assert held.train.users.tolist().count(2) == 0  # w's only interaction is in the newest 20 %
    assert split_histories(interactions_of([("u", "a", 1), ("v", "a", 1)])) is None
    repeated_set = make_validation_set({}, held, data.item_ids, include_seen=True)
    assert repeated_set.truth.sum() == 3


def test_segment_metrics_by_hand() -> None:
    # Item 1: 2 of its 4 users are in the segment; item 2: its only one; item 3: none of 2.
    found = evaluation.segment_metrics(np.array([2, 1, 0]), np.array([4, 1, 2]), 9, 12)
    assert found == {
        "coverage": 0.75,
        "hits_at_1_percent": 1.0,
        "recall_at_1_percent": pytest.approx(0.5),
    }


@dataclass(frozen=True)
class KnownSegments(SegmentationModel):
    """A model whose segments the test gives, by the items that are asked for."""

    segments: Mapping[tuple[str, ...], list[str]] = field(default_factory=dict)
    item_names: Sequence[str] = ()

    @property
    def item_ids(self) -> Ids:
        return np.array(list(self.item_names), dtype=object)

    def segment(  # type: ignore[override]
        self, queries: Sequence[Int32], interactions: Interactions, size: int
    ) -> list[Int32]:
        queried_items = [tuple(sorted(self.item_ids[query])) for query in queries]
        users = [self.segments[items][:size] for items in queried_items]
        return [find_positions(interactions.user_ids, names) for names in users]


# 200 users, so a segment has 2. Of the five items, the training does not know "e".
QUIET = [(f"quiet{n:03}", "a", 0) for n in range(196)]
TRAINING = [*QUIET, ("u1", "a", 0), ("u2", "b", 0), ("u3", "c", 0), ("u4", "d", 0)]
TRUTH = [
    *(("u1", "a", 9), ("u1", "a", 10), ("u2", "a", 9), ("u3", "a", 9)),
    *(("u1", "b", 9), ("u4", "b", 9), ("u2", "c", 9), ("u4", "e", 9)),
]


def _split_by_hand(attributes: SegmentAttributes | None = None) -> Split:
    data = replace(interactions_of([*TRAINING, *TRUTH]), attributes=attributes)
    is_truth = data.timestamps > 0
    train_part, truth = data.filter(~is_truth), data.filter(is_truth)
    return Split(train_part, train_part, truth, np.unique(truth.users).astype(np.int32))


def test_segments_of_items_are_measured_by_hand() -> None:
    segments: dict[tuple[str, ...], list[str]] = {
        ("a",): ["u1", "u2"],  # both of its three users: 2 hits, 2/3 of them
        ("b",): ["u2", "u1"],  # one of two: 1 hit, 1/2
        ("c",): ["u4", "u3"],  # none of one: 0 hits
    }
    model = KnownSegments(Mock(), segments=segments, item_names="abcd")
    assert evaluation.evaluate_segments(model, _split_by_hand()) == {
        "coverage": 0.8,  # four of five items have interactions in the training
        "hits_at_1_percent": pytest.approx((2 + 1 + 0) / 3),
        "recall_at_1_percent": pytest.approx((2 / 3 + 1 / 2 + 0) / 3),
    }


def test_segments_of_attributes_are_measured_by_hand() -> None:
    items = pl.DataFrame(
        {
            "ITEM_ID": ["a", "b", "c", "d", "e", "never", "a"],
            "GENRE": ["old row", "x", "y|z", "y", "x|w", "v", "x"],
        }
    )
    segments: dict[tuple[str, ...], list[str]] = {
        # a, b and e: u1, u2, u3 and u4 had one of them. 2 hits, 2/4 of them.
        ("a", "b"): ["u3", "u4"],
        ("c", "d"): ["u2", "u1"],  # y: c's u2 alone. 1 hit, 1/1.
        ("c",): ["u3", "u1"],  # z: c's u2 alone. No hit.
    }
    model = KnownSegments(Mock(), segments=segments, item_names="abcd")
    assert evaluation.evaluate_segments(model, _split_by_hand(index_attributes(items))) == {
        # Of v, w, x, y and z: nobody had v, and the training does not know w.
        "coverage": 0.6,
        "hits_at_1_percent": pytest.approx((2 + 1 + 0) / 3),
        "recall_at_1_percent": pytest.approx((2 / 4 + 1 + 0) / 3),
    }


def test_without_attributes_the_metrics_are_0() -> None:
    attributes = index_attributes(pl.DataFrame({"ITEM_ID": ["a", "b"], "GENRE": [None, ""]}))
    model = KnownSegments(Mock(), item_names="abcd")
    assert set(evaluation.evaluate_segments(model, _split_by_hand(attributes)).values()) == {0.0}


def test_attributes_are_categories_and_booleans_or_else_numbers() -> None:
    number, creation_time = Field("PRICE", "float"), Field("CREATION_TIMESTAMP", "long")
    text = Field("PLOT", "string", textual=True)
    fields = [Field("ITEM_ID", "string"), number, creation_time, text, Field("NOTE", "string")]
    assert choose_attribute_fields(fields) == ["PRICE"]
    kinds = [Field("GENRE", "string", categorical=True), Field("ADULT", "boolean")]
    assert choose_attribute_fields([*fields, *kinds]) == ["GENRE", "ADULT"]


def test_segment_metrics_are_better_than_chance() -> None:
    rows = tastes(users=150)
    data = interactions_of(rows)
    trained_model = train(RECIPES[0], data, {})
    held = split_histories(data)
    assert held is not None
    assert isinstance(trained_model.model, SegmentationModel)
    assert set(trained_model.metrics) == {"coverage", "hits_at_1_percent", "recall_at_1_percent"}
    # Segments have 2 of 150 users, so chance recalls 1.3 %.
    assert trained_model.metrics["recall_at_1_percent"] > 0.03
    assert trained_model.metrics["coverage"] == len(set(held.train.items)) / 40


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "rows",
    [
        [("u", "a", 1)],
        [(f"u{n}", "only", m) for n in range(30) for m in range(3)],
        [(f"u{n}", f"i{m}", 7) for n in range(30) for m in range(5)],
        [(f"u{n}", f"i{n}", 7) for n in range(30)],
        [("huge", f"i{m}", m) for m in range(900)] + [("small", "i3", 1), ("small", "i4", 1)],
        [(user, item, n) for n, user in enumerate("ab") for item in ("", "é" * 256, "🎬", "007")],
    ],
    ids=["one row", "one item", "all alike", "nothing shared", "one huge user", "strange ids"],
)
def test_unusual_data_gives_full_segments(recipe: str, rows: list[Row]) -> None:
    data = interactions_of(rows)
    trained_model = train(recipe, data, {})
    assert isinstance(trained_model.model, SegmentationModel)
    assert all(np.isfinite(value) for value in trained_model.metrics.values())
    count = len(data.item_ids)
    for segment in trained_model.model.segment(queries_of(*([n] for n in range(count))), data, 99):
        assert sorted(segment.tolist()) == list(range(len(data.user_ids)))


@pytest.mark.slow
def test_same_bytes_and_segments_for_any_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tastes(users=120, items=90, items_per_user=25)
    files, found = [], []
    for run, cores in enumerate((1, 2)):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        data = interactions_of(rows if run else rows[::-1])
        model = model_of(data)
        model.save(tmp_path / str(run))
        files.append({p.name: p.read_bytes() for p in (tmp_path / str(run)).iterdir()})
        found.append([s.tolist() for s in model.segment(queries_of([0], [1, 2]), data, 50)])
    assert files[0] == files[1]
    assert found[0] == found[1]


def test_a_saved_model_answers_the_same_and_damage_names_the_file(tmp_path: Path) -> None:
    data = interactions_of(tastes())
    model = model_of(data, hidden_dimension="32")
    model.save(tmp_path)
    repeated_set = load_model(tmp_path)
    assert isinstance(repeated_set, SegmentationModel)
    queries = queries_of([0], [5, 6])
    expected = [segment.tolist() for segment in model.segment(queries, data, 30)]
    assert [segment.tolist() for segment in repeated_set.segment(queries, data, 30)] == expected
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises(ModelFileError, match=path.name):
            load_model(tmp_path)
        path.write_bytes(good)
