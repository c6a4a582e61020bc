"""Tests of each recipe for recommendations, trained and queried by boto3, as on AWS.

The data have two tastes: even users like even items, odd users like odd items.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.personalize import SEEN, Films, Local
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    encode_user_lines,
)

pytestmark = pytest.mark.slow

ROWS = build_taste_rows()
FOR_USERS = ("aws-user-personalization", "aws-user-personalization-v2")
SIMILAR = ("aws-sims", "aws-similar-items")
ERROR = "User error: Required fields for the provided recipe are userId"
BAD_LINES = [
    b"not json",
    b"[]",
    b"null",
    b"{}",
    b'{"userId":7.5}',
    b'{"userId":""}',
    b'{"userId":null}',
    b'{"itemId":"i1"}',
    b'{"userId":"\\ud800"}',
    b'{"userId":"u1","more":NaN}',
    b'{"userId":"caf\xe9"}',
    b'\xff\xfe{\0}\0"',
    b"[" * 5000,
    b'{"userId":true}',
    b'{"userId":"u1","more":' + b"9" * 5000 + b"}",
]


def had(user: str) -> set[str]:
    return {item for other, item, _ in ROWS if other == user}


def items_of(answer: dict[str, Any]) -> list[str]:
    assert answer["error"] is None
    items: list[str] = answer["output"]["recommendedItems"]
    return items


def count_even(items: list[str]) -> int:
    return sum(int(item[1:]) % 2 == 0 for item in items)


@pytest.mark.parametrize("recipe", FOR_USERS)
def test_users_get_items_of_their_taste_and_none_that_they_had(films: Films, recipe: str) -> None:
    version = films.train(recipe)
    users = [f"u{number}" for number in range(60)]
    filter_arn = films.create_filter(films.films, name=f"seen-{recipe}")
    lists = films.recommend(version, users, f"seen-{recipe}", filterArn=filter_arn, numResults=3)
    for user, items in lists.items():
        assert not set(items) & had(user)
        left = 20 - len(had(user))  # of the items of the user's taste
        even = int(user[1:]) % 2 == 0
        assert (count_even(items) if even else 3 - count_even(items)) == min(3, left)


@pytest.mark.parametrize("recipe", FOR_USERS)
def test_a_training_has_the_metrics_that_aws_documents(films: Films, recipe: str) -> None:
    answer = films.client.get_solution_metrics(solutionVersionArn=films.train(recipe))
    metrics = answer["metrics"]
    depths = (5, 10, 25)
    assert set(metrics) == {
        "coverage",
        "mean_reciprocal_rank_at_25",
        *(f"normalized_discounted_cumulative_gain_at_{depth}" for depth in depths),
        *(f"precision_at_{depth}" for depth in depths),
    }
    # Half of the items fit a user's taste, so chance would find half as many.
    assert 0.1 < metrics["normalized_discounted_cumulative_gain_at_25"] <= 1


def test_a_line_has_the_members_that_aws_documents(films: Films) -> None:
    version = films.train(FOR_USERS[1])
    good, bad = films.answer_lines(version, [{"userId": "u1"}, {"user": "u2"}], numResults=2)
    assert list(good) == ["input", "output", "error"]
    assert good["input"] == {"userId": "u1"}
    assert list(good["output"]) == ["recommendedItems", "scores"]
    assert len(good["output"]["recommendedItems"]) == len(good["output"]["scores"]) == 2
    assert bad == {"input": {"user": "u2"}, "output": {"recommendedItems": []}, "error": ERROR}


def test_a_bad_line_is_answered_in_its_place(films: Films) -> None:
    version = films.train(FOR_USERS[1])
    lines = [line for bad in BAD_LINES for line in (bad, b'{"userId":"u1"}')]
    answers = films.answer_lines(version, lines, numResults=1)
    assert len(answers) == len(lines)
    for bad, good in zip(answers[::2], answers[1::2], strict=True):
        assert bad["error"] == ERROR
        assert bad["output"] == {"recommendedItems": []}
        assert good["error"] is None
        assert good["output"] == answers[1]["output"]
    assert answers[8]["input"] == {"userId": 7.5}  # items that can be repeated are repeated


def test_a_number_is_an_id_and_a_line_of_a_mebibyte_is_refused(films: Films) -> None:
    too_long = b'{"userId":"u1","more":"' + b"x" * (1 << 20) + b'"}'
    lines = [b'{"userId":5}', too_long, b'{"userId":"u1"}']
    number, refused, good = films.answer_lines(films.train(FOR_USERS[1]), lines, numResults=2)
    assert (number["input"], number["error"]) == ({"userId": "5"}, None)
    assert (refused["input"], refused["output"]) == ({}, {"recommendedItems": []})
    assert "1048576 bytes" in refused["error"]
    assert len(good["output"]["recommendedItems"]) == 2


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
LINES = st.binary(max_size=30) | JSON.map(lambda value: json.dumps({"userId": value}).encode())


@settings(max_examples=repeats(60, 12), suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(LINES, max_size=6), start=st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_any_line_is_answered_in_its_place(films: Films, lines: list[bytes], start: bytes) -> None:
    good = b'{"userId":"u1"}'
    text = b"\n".join([*lines, good])
    requests = [line for line in text.split(b"\n") if line.strip()]
    first, *answers = films.answer_lines(
        films.train(FOR_USERS[1]), [start + good, text], numResults=3
    )
    assert len(answers) == len(requests)
    assert answers[-1] == first
    for answer in answers:
        assert (answer["error"] is None) == bool(answer["output"]["recommendedItems"])


def test_marks_line_ends_and_blank_lines_are_no_requests(films: Films) -> None:
    version = films.train(FOR_USERS[1])
    lines = [b'\xef\xbb\xbf{"userId":"u1"}', b"", b'{"userId":"u2"}\r', b" \r", b'{"userId":"u1"}']
    answers = films.answer_lines(version, lines, numResults=5)
    assert [answer["input"]["userId"] for answer in answers] == ["u1", "u2", "u1"]
    assert answers[0]["output"] == answers[2]["output"]
    films.store.put("s3://data/empty/users.json", b"\n")
    job = films.create_batch_job(
        version, "s3://data/empty/users.json", "s3://data/empty/out/", jobName="empty"
    )
    films.wait_until_active(job)
    assert films.store.get("s3://data/empty/out/users.json.out") == b""


def test_a_list_has_num_results_items_or_the_whole_catalogue(films: Films) -> None:
    version = films.train(FOR_USERS[1])
    for number, length in ((1, 1), (40, 40), (2**31 - 1, 40)):
        lists = films.recommend(version, ["u1"], f"length-{number}", numResults=number)
        assert len(set(lists["u1"])) == len(lists["u1"]) == length
    assert len(films.recommend(version, ["u1"], "length-default")["u1"]) == 25


def test_scores_fall_and_sum_to_one_over_the_catalogue(films: Films) -> None:
    version = films.train(FOR_USERS[1])
    lines = [{"userId": "u1"}, {"userId": "stranger"}]
    for answer in films.answer_lines(version, lines, numResults=40):
        scores = answer["output"]["scores"]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("recipe", SIMILAR)
def test_similar_items_share_their_users(films: Films, recipe: str) -> None:
    version = films.train(recipe)
    lines = [{"itemId": "i4"}, {"itemId": "i5"}, {"itemId": "new"}, {"userId": "u1"}]
    even, odd, unknown, bad = films.answer_lines(version, lines, numResults=10)
    assert count_even(items_of(even)) == 10
    assert count_even(items_of(odd)) == 0
    assert "i4" not in items_of(even)
    assert len(set(items_of(even))) == len(set(items_of(unknown))) == 10
    assert list(even["output"]) == ["recommendedItems"]  # no scores
    assert bad["error"] == "User error: Required fields for the provided recipe are itemId"
    # Without users, nobody had any items.
    filter_arn = films.create_filter(films.films, name=recipe)
    (others,) = films.answer_lines(version, lines[:1], numResults=100, filterArn=filter_arn)
    assert len(items_of(others)) == 39


def test_a_user_without_history_gets_popular_items(local: Local) -> None:
    hits = [(f"u{number % 60}", "hit", number) for number in range(300)]
    group, _ = local.import_rows([*ROWS, *hits])
    stranger = local.recommend(local.train_version(group), ["stranger"], numResults=2)["stranger"]
    counts = Counter(item for _, item, _ in ROWS)
    assert stranger[0] == "hit"
    assert counts[stranger[1]] == max(counts.values())


def test_interactions_imported_after_the_training_count(local: Local) -> None:
    group, dataset = local.import_rows(ROWS)
    version = local.train_version(group)
    filter_arn = local.create_filter(group)
    before = local.recommend(version, ["fresh"], "before", filterArn=filter_arn, numResults=40)
    assert len(before["fresh"]) == 40  # a stranger may get every item
    evens = [("fresh", f"i{number}", 1_700_000_000 + number) for number in range(0, 30, 2)]
    unknown = [("filler", "new", 1_700_001_000 + number) for number in range(1000)]
    local.store.put("s3://data/more.csv", encode_csv([*ROWS, *evens, *unknown]))
    local.wait_until_active(local.start_import(dataset, "s3://data/more.csv", "add"))
    after = local.recommend(version, ["fresh"], "after", filterArn=filter_arn, numResults=40)
    assert not set(after["fresh"]) & {item for _, item, _ in evens}
    assert count_even(after["fresh"][:5]) == 5
    assert "new" not in after["fresh"]  # the training did not know this item
    newer = local.train_version(group, name="newer")
    assert "new" in local.recommend(newer, ["u1"], "newer", numResults=100)["u1"]


def test_a_full_import_replaces_and_an_incremental_one_adds(local: Local) -> None:
    group, dataset = local.import_rows(ROWS)
    new = [(f"u{number % 60}", "new", 1_700_000_000 + number) for number in range(1000)]
    local.store.put("s3://data/new.csv", encode_csv(new))
    for mode, catalogue in (("INCREMENTAL", 41), ("FULL", 1)):
        job = local.start_import(dataset, "s3://data/new.csv", mode.lower(), importMode=mode)
        local.wait_until_active(job)
        version = local.train_version(group, FOR_USERS[0], name=mode.lower())
        items = local.recommend(version, ["stranger"], mode.lower(), numResults=100)["stranger"]
        assert items[0] == "new"
        assert len(items) == catalogue


def test_a_folder_of_files_is_one_import_and_one_batch(local: Local) -> None:
    for number in range(3):
        part = encode_csv(ROWS[number * 500 : (number + 1) * 500])
        local.store.put(f"s3://data/parts/{number}.csv", part)
        local.store.put(f"s3://data/users/{number}.json", encode_user_lines([f"u{number}"]))
    local.store.put("s3://data/users_elsewhere/x.json", encode_user_lines(["x"]))
    group = local.create_group()
    local.wait_until_active(local.start_import(local.create_dataset(group), "s3://data/parts/"))
    version = local.train_version(group)
    local.wait_until_active(local.create_batch_job(version, "s3://data/users/"))
    assert [info.uri for info in local.store.list("s3://data/out/")] == [
        *(f"s3://data/out/{number}.json.out" for number in range(3)),
        "s3://data/out/_CHECK",
    ]
    catalogue = local.recommend(version, ["u0"], "all", numResults=100)["u0"]
    assert len(catalogue) == 40  # items of all three parts


def test_input_and_output_are_checked_and_a_missing_input_fails_the_job(films: Films) -> None:
    version = films.train(FOR_USERS[1])
    with pytest.raises(films.client.exceptions.InvalidInputException, match="differ"):
        films.create_batch_job(version, "s3://data/both/", "s3://data/both")
    job = films.wait(
        films.create_batch_job(version, "s3://data/none.json", "s3://data/none/", jobName="none")
    )
    assert job["status"] == "CREATE FAILED"
    assert "s3://data/none.json" in job["failureReason"]
    assert films.store.list("s3://data/none/") == []


def test_a_filter_knows_a_users_latest_100_interactions_of_each_event_type(local: Local) -> None:
    reader = [("reader", f"b{number:03}", 1_700_000_000 + number) for number in range(150)]
    clicks = [("clicker", item, time) for _, item, time in reader[:60]]
    watches = [("clicker", item, time) for _, item, time in reader[60:]]
    other = encode_csv(clicks, event_type="click").partition(b"\n")[2]
    local.store.put("s3://data/rows.csv", encode_csv([*ROWS, *reader, *watches]) + other)
    group = local.create_group()
    local.wait_until_active(local.start_import(local.create_dataset(group), "s3://data/rows.csv"))
    version = local.train_version(group)
    filter_arn = local.create_filter(group, SEEN)
    lists = local.recommend(version, ["reader", "clicker"], filterArn=filter_arn, numResults=500)
    books = {item for item in lists["reader"] if item.startswith("b")}
    assert books == {f"b{number:03}" for number in range(50)}  # the oldest 50
    # 60 interactions of one type and 90 of the other; all items are seen
    assert not [item for item in lists["clicker"] if item.startswith("b")]
