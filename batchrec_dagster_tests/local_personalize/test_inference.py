"""The lines of a batch inference job, and the filter that leaves out what a user had."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from batchrec_dagster_tests.guard.servers.personalize import (
    Films,
    Local,
    build_taste_rows,
    encode_csv,
)

pytestmark = pytest.mark.slow

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
    b'{"userId":"u1","more":1e999}',
    b'{"userId":"caf\xe9"}',
    b"[" * 5000,
]


def test_a_bad_line_is_answered_in_its_place(films: Films) -> None:
    version = films.train("aws-user-personalization-v2")
    lines = [line for bad in BAD_LINES for line in (bad, b'{"userId":"u1"}')]
    films.store.put("s3://data/bad.json", b"\n".join(lines))
    films.wait_until_active(
        films.create_batch_job(version, "s3://data/bad.json", jobName="bad", numResults=1)
    )
    answers = [json.loads(line) for line in films.read_lines("s3://data/out/bad.json.out")]
    assert len(answers) == len(lines)
    for bad, good in zip(answers[::2], answers[1::2], strict=True):
        assert bad["error"] == ERROR
        assert bad["output"] == {"recommendedItems": []}
        assert good["error"] is None
        assert good["output"] == answers[1]["output"]
    assert answers[8]["input"] == {"userId": 7.5}  # what can be repeated is


def test_blank_lines_and_empty_files_are_no_requests(films: Films) -> None:
    version = films.train("aws-user-personalization-v2")
    films.store.put("s3://data/in/blank.json", b'\n{"userId":"u1"}\r\n\n')
    films.store.put("s3://data/in/empty.json", b"")
    films.wait_until_active(films.create_batch_job(version, "s3://data/in/", jobName="blank"))
    assert len(films.read_lines("s3://data/out/blank.json.out")) == 1
    assert films.store.get("s3://data/out/empty.json.out") == b""


def test_a_list_has_num_results_items_or_the_whole_catalog(
    films: Films,
) -> None:
    version = films.train("aws-user-personalization-v2")
    lengths = {
        num_results: len(
            films.recommend(version, ["u1"], f"job-{num_results}", numResults=num_results)["u1"]
        )
        for num_results in (1, 40, 2**31 - 1)
    }
    assert lengths == {1: 1, 40: 40, 2**31 - 1: 40}
    default = films.recommend(version, ["u1"], "job-default")["u1"]
    assert len(default) == len(set(default)) == 25


def test_scores_fall_and_sum_to_one_over_the_catalogue(films: Films) -> None:
    version = films.train("aws-user-personalization-v2")
    films.recommend(version, ["u1", "stranger"], "scores", numResults=40)
    for line in films.read_lines("s3://data/scores/out/users.json.out"):
        scores = json.loads(line)["output"]["scores"]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_the_filter_uses_a_users_latest_100_interactions(local: Local) -> None:
    reader_rows = [("reader", f"b{n:03}", 1_700_000_000 + n) for n in range(150)]
    group, _ = local.import_rows([*build_taste_rows(), *reader_rows])
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    filter_arn = local.create_filter(group)
    answers = local.recommend(version, ["reader", "u1"], filterArn=filter_arn, numResults=500)
    assert len(answers["reader"]) == 40 + 50
    reader_items = {item for item in answers["reader"] if item.startswith("b")}
    assert reader_items == {f"b{n:03}" for n in range(50)}  # the oldest 50
    unfiltered_items = local.recommend(version, ["reader"], "without", numResults=500)["reader"]
    assert len(unfiltered_items) == 190


def test_the_filter_counts_each_event_type_by_itself(local: Local) -> None:
    reader_rows = [("reader", f"b{n:03}", 1_700_000_000 + n) for n in range(150)]
    other = encode_csv(reader_rows[:60], event_type="click").partition(b"\n")[2]
    local.store.put(
        "s3://data/interactions.csv", encode_csv([*build_taste_rows(), *reader_rows[60:]]) + other
    )
    group = local.create_group()
    local.wait_until_active(
        local.start_import(local.create_dataset(group), "s3://data/interactions.csv")
    )
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    answers = local.recommend(
        version, ["reader"], filterArn=local.create_filter(group), numResults=500
    )
    assert len(answers["reader"]) == 40  # 90 of one type and 60 of the other: all are seen


def test_a_group_without_event_types_has_no_filter(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows(), event_type=False)
    with pytest.raises(local.client.exceptions.InvalidInputException, match="EVENT_TYPE"):
        local.create_filter(group)


def test_a_user_without_history_gets_popular_items(local: Local) -> None:
    rows = build_taste_rows()
    group, _ = local.import_rows([*rows, *((f"u{n % 60}", "hit", n) for n in range(300))])
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    counts = Counter(item for _, item, _ in rows)
    stranger = local.recommend(version, ["stranger"], numResults=2)["stranger"]
    assert stranger[0] == "hit"
    assert counts[stranger[1]] == max(counts.values())


def test_input_and_output_must_be_different_locations(films: Films) -> None:
    version = films.train("aws-user-personalization-v2")
    with pytest.raises(films.client.exceptions.InvalidInputException, match="must differ"):
        films.create_batch_job(version, "s3://data/both/", "s3://data/both")
    films.store.put("s3://data/both/users.json", b'{"userId":"u1"}\n')
    job = films.create_batch_job(
        version, "s3://data/both/users.json", "s3://data/both/", jobName="both"
    )
    films.wait_until_active(job)
    assert films.read_lines("s3://data/both/users.json.out")  # the input's folder is allowed


def test_a_missing_input_fails_the_job(films: Films) -> None:
    version = films.train("aws-user-personalization-v2")
    job = films.create_batch_job(version, "s3://data/none.json", "s3://data/none/", jobName="none")
    failed_job = films.wait(job)
    assert failed_job["status"] == "CREATE FAILED"
    assert failed_job["failureReason"] == (
        "Invalid Data location. There is no object at s3://data/none.json"
    )
    assert films.store.list("s3://data/none/") == []
