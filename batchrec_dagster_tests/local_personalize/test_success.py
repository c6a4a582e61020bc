"""Tests of metrics that count events of some types only, compared with a plain reading.

Users in these data view much and buy little. Users with even numbers buy popular items, users with
odd numbers do not.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.local_personalize.engine.data import Interactions
from batchrec_dagster.local_personalize.engine.evaluate import HeldOut, hold_out
from batchrec_dagster.local_personalize.operations.solution_versions import CHOICES
from batchrec_dagster.personalize.measured_ndcg import GroupSums
from batchrec_dagster.personalize.measurements import NDCG, get_solution_metrics, read_header
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.servers.personalize import Local
from batchrec_dagster_tests.local_personalize.engine.support import popular_blends

TYPES = ("view", "Purchase", "cart")
Event = tuple[str, str, int, str]


def build_events() -> list[Event]:
    rng = random.Random(5)
    events = []
    for user in range(150):
        for step in range(rng.randint(8, 40)):
            item = int(60 * rng.random() ** 2)
            is_bought = rng.random() < (0.5 if item < 15 else 0.1) * (1 - user % 2)
            kind = "Purchase" if is_bought else "cart" if rng.random() < 0.1 else "view"
            events.append((f"u{user}", f"i{item}", 1_000 * user + step, kind))
    return events


EVENTS = build_events()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    return Local(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def version(local: Local) -> str:
    """Return the ARN of a model of popular items."""
    lines = "\n".join(",".join(map(str, event)) for event in EVENTS)
    local.store.put(
        "s3://data/interactions.csv", f"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n{lines}\n".encode()
    )
    group = local.create_group()
    dataset = local.create_dataset(group)
    local.wait_until_active(local.start_import(dataset, "s3://data/interactions.csv"))
    solution = local.create_solution(group, "aws-user-personalization")
    with popular_blends():
        return local.wait_until_active(local.create_version(solution))


def measure_plainly(counted: set[str]) -> tuple[int, Mapping[str, float]]:
    """Return the number of tested users and the metrics of popular items, read row by row."""
    frame = pl.DataFrame(
        [event[:3] for event in EVENTS], ["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row"
    )
    held_out = hold_out(Interactions.from_frame(frame))
    assert held_out is not None
    train, seen, truth = (_list_items(held_out, part) for part in ("train", "inputs", "truth"))
    counts: dict[str, int] = defaultdict(int)
    for items in train.values():
        for item in items:
            counts[item] += 1
    ranking = sorted(counts, key=lambda item: (-counts[item], item))
    types = defaultdict(set)
    for user, item, _, kind in EVENTS:
        types[user, item].add(kind.lower())
    sums: dict[str, float] = defaultdict(float)
    tested = 0
    for user, later_items in truth.items():
        relevant = {
            item
            for item in later_items
            if item in counts and item not in seen[user] and types[user, item] & counted
        }
        if not relevant:
            continue
        tested += 1
        items = [item for item in ranking if item not in seen[user]][:25]
        places = [place for place, item in enumerate(items, 1) if item in relevant]
        sums["mean_reciprocal_rank_at_25"] += 1 / places[0] if places else 0
        for depth in (5, 10, 25):
            gain = sum(1 / math.log2(1 + place) for place in places if place <= depth)
            best = sum(1 / math.log2(2 + n) for n in range(min(depth, len(relevant))))
            sums[f"normalized_discounted_cumulative_gain_at_{depth}"] += gain / best
            sums[f"precision_at_{depth}"] += sum(place <= depth for place in places) / depth
    return tested, {name: total / tested for name, total in sums.items()}


def _list_items(held_out: HeldOut, part: str) -> dict[str, list[str]]:
    rows: Interactions = getattr(held_out, part)
    items: dict[str, list[str]] = defaultdict(list)
    for user, item in zip(rows.users, rows.items, strict=True):
        items[rows.user_ids[user]].append(rows.item_ids[item])
    return items


@pytest.mark.parametrize("events", [["purchase"], ["view"], ["cart", "PURCHASE"], [*TYPES]])
def test_metrics_of_some_events_equal_a_plain_reading(
    local: Local, version: str, events: list[str]
) -> None:
    answer = get_solution_metrics(local.client, version, events)
    tested, expected = measure_plainly({name.lower() for name in events})
    counted_metrics = {
        name: value for name, value in answer["metrics"].items() if name != "coverage"
    }
    assert counted_metrics == pytest.approx(expected, abs=5e-5)
    added = read_header(answer)
    groups = GroupSums.model_validate(added["groups"])
    assert (groups.tested, added["success"]) == (tested, events)
    assert groups.mean is not None
    assert groups.mean.value == pytest.approx(answer["metrics"][NDCG], abs=5e-5)


def test_all_events_are_the_usual_metrics(local: Local, version: str) -> None:
    usual = get_solution_metrics(local.client, version)
    assert (
        usual["metrics"] == local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    )
    named = get_solution_metrics(local.client, version, TYPES)
    assert named["metrics"] == usual["metrics"]
    assert read_header(named)["groups"] == read_header(usual)["groups"]
    bought = get_solution_metrics(local.client, version, ["purchase"])["metrics"]
    assert bought[NDCG] > usual["metrics"][NDCG] + 0.02
    assert bought["coverage"] == usual["metrics"]["coverage"]


def test_events_that_nobody_had_test_no_user(local: Local, version: str) -> None:
    answer = get_solution_metrics(local.client, version, ["refund"])
    assert sum(read_header(answer)["groups"]["users"]) == 0
    assert answer["metrics"][NDCG] == 0


def test_a_version_without_choices_counts_all_events(
    local: Local, version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = local.root.glob(f"home/models/*/{CHOICES}")
    usual = get_solution_metrics(local.client, version)
    counted = (usual["metrics"], read_header(usual))
    shutil.copy(path, tmp_path)
    try:
        path.unlink()
        metrics = get_solution_metrics(local.client, version, ["purchase"])
        assert (metrics["metrics"], read_header(metrics)) == counted
        path.write_bytes(b"damaged")
        metrics = get_solution_metrics(local.client, version, ["purchase"])
        assert (metrics["metrics"], read_header(metrics)) == counted
        assert "the metrics of" in caplog.text
    finally:
        shutil.copy(tmp_path / CHOICES, path)


@pytest.mark.parametrize("header", ["purchase", "{}", "[1]", json.dumps(["a"] * 11), "[" * 5000])
def test_a_header_that_names_no_events_is_refused(tmp_path: Path, header: str) -> None:
    service = LocalPersonalize(tmp_path, ObjectStore())
    target, body = "AmazonPersonalize.GetSolutionMetrics", b'{"solutionVersionArn": "arn:a"}'
    status, text, _ = service.answer(target, body, header)
    service.close()
    assert (status, json.loads(text)["__type"]) == (400, "InvalidInputException")
    assert "a JSON array of at most 10 event types" in json.loads(text)["message"]


def test_saved_choices_have_no_ids(local: Local, version: str) -> None:
    [path] = local.root.glob(f"home/models/*/{CHOICES}")
    choices = pl.read_parquet(path)
    assert choices.columns == ["user", "group", "place", "EVENT_TYPE"]
    assert b"u10" not in path.read_bytes()
