"""The quality in parts, against a plain reading of the same choices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import choices as saved_choices
from batchrec_dagster.local_personalize.learning import held_out
from batchrec_dagster.local_personalize.learning.breakdown import measure_breakdown
from batchrec_dagster.local_personalize.learning.choice_attributes import (
    ChoiceAttributes,
    ColumnValues,
    index_values,
)
from batchrec_dagster.local_personalize.learning.choices import EventChoices, ListPlaces
from batchrec_dagster.local_personalize.learning.evidence import MIN_USERS
from batchrec_dagster.local_personalize.learning.interactions import ModelFileError
from batchrec_dagster.personalize.breakdown import (
    LONGEST_VALUE,
    MOST_COLUMNS,
    MOST_VALUES,
    Breakdown,
    ComparedEstimate,
    format_header,
    read_breakdown,
)
from batchrec_dagster.personalize.evidence import (
    MetricEstimate,
    get_solution_metrics,
    read_evidence,
)
from batchrec_dagster.personalize.schemas import build_items_schema, build_users_schema
from batchrec_dagster_tests.local_personalize.support import Local, build_taste_rows

# HTTP clients take no longer line of a header.
LONGEST_HEADER = 65_536


def make_choices(
    places: Sequence[tuple[int, int, int]],
    users: Sequence[tuple[str, Sequence[tuple[int, int]]]] = (),
    items: Sequence[tuple[str, Sequence[tuple[int, int]]]] = (),
) -> EventChoices:
    """Choices of users.

    places: user, place in the model's list and in that of popular items, in order of users.
    users: columns, each with pairs of a user and the code of a value among A, B and others.
    items: the same with pairs of a choice and a code.
    """
    user, own, popular = np.array(places, np.int32).reshape(-1, 3).T
    tested = int(user.max(initial=-1)) + 1

    def make_columns(
        columns: Sequence[tuple[str, Sequence[tuple[int, int]]]],
    ) -> list[ColumnValues]:
        return [
            ColumnValues(name, ["A", "B"], *np.array(pairs, np.int32).reshape(-1, 2).T)
            for name, pairs in columns
        ]

    return EventChoices(
        ListPlaces(user, own, popular, np.ones(tested, np.int64)),
        np.ones(len(places), np.int64),
        ["watch"],
        ChoiceAttributes(make_columns(users), make_columns(items)),
    )


def measure(choices: EventChoices) -> Breakdown:
    return measure_breakdown(choices, choices.find_counted([]))


def test_two_users_by_hand() -> None:
    # The first chose what stands at 1 and 7 of the list, the second what no list has.
    choices = make_choices(
        [(0, 1, 0), (0, 7, 12), (1, 0, 0)],
        users=[("COUNTRY", [(0, 0), (1, 1)])],
        items=[("KIND", [(0, 0), (1, 0), (1, 1), (2, 2)])],
    )
    breakdown = measure(choices)
    at_5, at_10, at_25 = breakdown.depths
    assert [part.depth for part in breakdown.depths] == [5, 10, 25]
    ideal = 1 + 1 / math.log2(3)
    assert at_5.ndcg.model.value == pytest.approx(1 / ideal / 2)
    assert at_10.ndcg.model.value == pytest.approx((1 + 1 / 3) / ideal / 2)
    assert at_10.ndcg.model.interval is None
    assert (at_5.precision.model.value, at_10.precision.model.value) == (0.1, 0.1)
    assert [part.hit_rate.model.value for part in breakdown.depths] == [0.5, 0.5, 0.5]
    assert [part.hit_rate.popular.value for part in breakdown.depths] == [0, 0, 0.5]
    assert at_25.hit_rate.difference.value == 0

    assert breakdown.users is not None
    [country] = breakdown.users
    assert [(group.value, group.users) for group in country.groups] == [("A", 1), ("B", 1)]
    assert country.groups[0].metric.model.value == pytest.approx((1 + 1 / 3) / ideal)
    assert country.groups[1].metric.model.value == 0

    assert breakdown.items is not None
    [kind] = breakdown.items
    recalls = {group.value: group.metric for group in kind.groups}
    assert {value: metric.model.value for value, metric in recalls.items()} == {
        "A": 1,
        "B": 1,
        None: 0,
    }
    assert recalls["A"].popular.value == 0.5


Places = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=80
)


@given(Places, st.data())
def test_every_number_is_that_of_a_plain_reading(
    drawn: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    # A place has one item, and users are numbered without gaps.
    distinct = {
        (user, own or -row): (popular, row) for row, (user, own, popular) in enumerate(drawn)
    }
    numbers = {user: number for number, user in enumerate(sorted({user for user, _ in distinct}))}
    seen = set()
    places = []
    for (user, own), (popular, _) in sorted(distinct.items()):
        listed = popular if (user, popular) not in seen else 0
        seen.add((user, popular))
        places.append((numbers[user], max(own, 0), listed))
    of_users = {
        user: data.draw(st.sets(st.integers(0, 2), max_size=2)) for user in numbers.values()
    }
    of_choices = [data.draw(st.sets(st.integers(0, 2), max_size=2)) for _ in places]
    choices = make_choices(
        places,
        users=[("COUNTRY", [(user, code) for user, codes in of_users.items() for code in codes])],
        items=[("KIND", [(row, code) for row, codes in enumerate(of_choices) for code in codes])],
    )
    breakdown = measure(choices)

    by_user: dict[int, list[int]] = defaultdict(list)
    for user, own, _ in places:
        by_user[user].append(own)
    for part in breakdown.depths:
        scores = []
        for own_places in by_user.values():
            hits = [place for place in own_places if 0 < place <= part.depth]
            best = sum(1 / math.log2(2 + n) for n in range(min(part.depth, len(own_places))))
            gain = sum(1 / math.log2(1 + place) for place in hits)
            scores.append((gain / best, len(hits) / part.depth, bool(hits)))
        expected = np.mean(scores, axis=0).tolist()
        metrics = (part.ndcg, part.precision, part.hit_rate)
        assert [metric.model.value for metric in metrics] == pytest.approx(expected)
        assert all(is_estimate(metric, len(by_user)) for metric in metrics)

    assert breakdown.users is not None
    for group in breakdown.users[0].groups:
        code = {"A": 0, "B": 1, None: 2}[group.value]
        assert group.users == sum(code in codes for codes in of_users.values()) > 0
        assert is_estimate(group.metric, group.users)
    assert breakdown.items is not None
    for group in breakdown.items[0].groups:
        code = {"A": 0, "B": 1, None: 2}[group.value]
        rows = [place for place, codes in zip(places, of_choices, strict=True) if code in codes]
        assert group.users == len({user for user, _, _ in rows})
        assert group.metric.model.value == pytest.approx(
            sum(own > 0 for _, own, _ in rows) / len(rows)
        )
        assert is_estimate(group.metric, group.users)
    assert Breakdown.from_json(breakdown.to_json()) is not None


def is_estimate(metric: ComparedEstimate, users: int) -> bool:
    """Whether the lead is right, and there are intervals only if users are enough."""
    lead = metric.model.value - metric.popular.value
    if not math.isclose(metric.difference.value, lead, abs_tol=1e-9):
        return False
    intervals = [part.interval for part in (metric.model, metric.popular, metric.difference)]
    if users < MIN_USERS:
        return intervals == [None, None, None]
    return all(interval is None or interval[0] < interval[1] for interval in intervals)


def test_what_all_users_have_alike_has_no_interval() -> None:
    # Twelve users, of whom the list reaches every second one, and popular items none.
    breakdown = measure(make_choices([(user, user % 2, 0) for user in range(12)]))
    [at_5, *_] = breakdown.depths
    assert at_5.hit_rate.model.value == 0.5
    assert at_5.hit_rate.model.interval is not None
    assert at_5.hit_rate.popular == MetricEstimate(0)


def test_without_tested_users_there_is_nothing() -> None:
    choices = make_choices([(0, 1, 1)], users=[("COUNTRY", [(0, 0)])], items=[("KIND", [(0, 0)])])
    breakdown = measure_breakdown(choices, choices.find_counted(["sold"]))
    assert breakdown.depths == []
    assert [column.groups for column in [*(breakdown.users or ()), *(breakdown.items or ())]] == [
        [],
        [],
    ]


def test_values_are_indexed() -> None:
    rows = [
        ("u1", "old"),
        ("u1", "AT|DE| AT"),
        ("u2", None),
        ("u3", ""),
        ("unseen", "FR"),
        ("u4", "DE"),
        ("u5", "x" * 50),
    ]
    table = pl.DataFrame(rows, ["USER_ID", "COUNTRY"], orient="row")
    ids = np.array(["u1", "u2", "u3", "u4", "u5", "nobody"], dtype=object)
    values = index_values("COUNTRY", table, ids)
    assert values is not None
    assert values.names == ["DE", "AT", "x" * LONGEST_VALUE]
    pairs = list(zip(values.rows.tolist(), values.codes.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (3, 0), (4, 2)]
    assert index_values("COUNTRY", table, np.array(["u2"], dtype=object)) is None


def test_rare_values_are_one_group() -> None:
    cells = [f"V{number:02}" for number in range(MOST_VALUES + 3)] + ["V00|V09|V10"]
    ids = [f"u{number}" for number in range(len(cells))]
    table = pl.DataFrame({"USER_ID": ids, "COLUMN": cells})
    values = index_values("COLUMN", table, np.array(ids, dtype=object))
    assert values is not None
    assert len(values.names) == MOST_VALUES
    assert values.names[:3] == ["V00", "V09", "V10"]
    # The three others, each once.
    assert (values.codes == MOST_VALUES).sum() == 5 - 2


def test_the_longest_breakdown_is_a_header() -> None:
    estimate = ComparedEstimate(*[MetricEstimate(0.12345, 0.12345, 0.12345)] * 3)
    names = [f"{'😀' * (LONGEST_VALUE - 1)}{number}" for number in range(MOST_VALUES)]
    column = ["A" * 63, [[name, 100_000, estimate.to_json()] for name in [*names, None]]]
    parts = {
        "depths": [[depth, *[estimate.to_json()] * 3] for depth in (5, 10, 25)],
        "users": [column] * MOST_COLUMNS,
        "items": [column] * MOST_COLUMNS,
    }
    breakdown = Breakdown.from_json(parts)
    assert breakdown is not None
    assert len(format_header(breakdown)) < LONGEST_HEADER


def test_saved_attributes_are_checked_when_they_are_read(tmp_path: Path) -> None:
    choices = make_choices(
        [(0, 1, 0), (1, 3, 2)],
        users=[("COUNTRY", [(0, 0), (1, 1)])],
        items=[("KIND", [(0, 2)]), ("BRAND", [])],
    )
    choices.save(tmp_path)
    loaded = EventChoices.load(tmp_path)
    assert loaded is not None
    assert measure(loaded) == measure(choices)
    assert choices.attributes is not None
    choices.attributes.items[0].rows[0] = 2
    choices.save(tmp_path)
    with pytest.raises(ModelFileError, match=r"attribute_rows.npy has the index 2"):
        EventChoices.load(tmp_path)
    choices.attributes.items[0].rows[0] = 0
    choices.attributes.users[0].codes[0] = 3
    choices.save(tmp_path)
    with pytest.raises(ModelFileError, match=r"attribute_codes.npy has the index 3"):
        EventChoices.load(tmp_path)


def test_nothing_that_was_known_of_anyone_stays_when_users_are_erased(tmp_path: Path) -> None:
    choices = make_choices([(0, 1, 2), (1, 0, 1)], [("COUNTRY", [(0, 0), (1, 1)])])
    model, copy = tmp_path / "model", tmp_path / "copy"
    choices.save(model)
    (model / "arrays").write_bytes(b"4711")
    copy.mkdir()
    assert held_out.copy_without_users(model, copy, {"bob"})
    assert (copy / "arrays").read_bytes() == b"4711"
    saved = EventChoices.load(copy)
    assert saved is not None
    assert saved.attributes is None
    assert saved.measure([]) == choices.measure([])
    assert not any(b"COUNTRY" in path.read_bytes() for path in copy.rglob("*") if path.is_file())
    # What has nothing of users is not copied again.
    assert not held_out.copy_without_users(copy, tmp_path / "next", {"bob"})


def test_a_model_of_an_older_batchrec_has_no_columns(tmp_path: Path) -> None:
    choices = make_choices([(0, 1, 0)])
    old = EventChoices(choices.places, choices.types, choices.names)
    old.save(tmp_path)
    assert not (tmp_path / saved_choices.CHOICES / "attribute_rows.npy").exists()
    loaded = EventChoices.load(tmp_path)
    assert loaded is not None
    breakdown = measure(loaded)
    assert (breakdown.users, breakdown.items) == (None, None)
    assert breakdown.depths
    assert Breakdown.from_json(breakdown.to_json()) == breakdown


def test_a_training_keeps_what_is_known_of_its_tested_users(tmp_path: Path) -> None:
    local = Local(tmp_path)
    group, _ = local.import_rows(build_taste_rows(rows=3000, users=150, items=80))
    users = "".join(f"u{user},{'AT' if user % 2 else 'DE'}\n" for user in range(150))
    items = "".join(f"i{item},{'odd' if item % 2 else 'even'}|all\n" for item in range(80))
    for name, schema, text in (
        ("Users", build_users_schema(categories=["COUNTRY"], numbers=["AGE"]), users),
        ("Items", build_items_schema(created=False, categories=["KIND"], numbers=[]), items),
    ):
        column = "USER_ID,COUNTRY,AGE\n" if name == "Users" else "ITEM_ID,KIND\n"
        rows = text.replace("\n", ",30\n") if name == "Users" else text
        local.store.put(f"s3://data/{name}.csv", (column + rows).encode())
        schema_arn = local.client.create_schema(name=name, schema=schema)["schemaArn"]
        dataset = local.client.create_dataset(
            name=name, schemaArn=schema_arn, datasetGroupArn=group, datasetType=name
        )["datasetArn"]
        local.wait_until_active(dataset)
        local.wait_until_active(local.start_import(dataset, f"s3://data/{name}.csv", name=name))
    solution = local.create_solution(group, "aws-popularity-count")
    version = local.wait_until_active(local.create_version(solution))
    usual = get_solution_metrics(local.client, version)
    assert read_breakdown(usual) == {}
    answer = get_solution_metrics(local.client, version, breakdown=True)
    assert answer["metrics"] == usual["metrics"]
    breakdown = Breakdown.from_json(read_breakdown(answer))
    assert breakdown is not None
    for part in breakdown.depths:
        for name, metric in (
            ("normalized_discounted_cumulative_gain", part.ndcg),
            ("precision", part.precision),
        ):
            assert metric.model.value == answer["metrics"][f"{name}_at_{part.depth}"]
    evidence = read_evidence(answer)
    at_25 = breakdown.depths[-1].ndcg
    # The same bootstrap, so that a page never shows two intervals of one number.
    assert (at_25.model.low, at_25.model.high) == (
        evidence["all/ndcg_low"],
        evidence["all/ndcg_high"],
    )
    assert breakdown.users is not None
    [country] = breakdown.users
    assert {group.value for group in country.groups} == {"AT", "DE"}
    assert sum(group.users for group in country.groups) == evidence["all/users"]
    assert breakdown.items is not None
    [kind] = breakdown.items
    assert kind.groups[0].value == "all"
    total = sum(group.users * group.metric.model.value for group in country.groups)
    assert total / evidence["all/users"] == pytest.approx(evidence["all/ndcg"], abs=1e-3)
