"""The walk from a file of interactions to recommendations, and what the data has to do with it."""

from __future__ import annotations

import json

import pytest

from batchrec_dagster.personalize.evidence import EMBEDDED, Evidence, name_engine, read_evidence
from batchrec_dagster_tests.guard.servers.personalize import Local, build_taste_rows, encode_csv
from batchrec_dagster_tests.local_personalize.learning.support import popular_blends

pytestmark = pytest.mark.slow

IN_ORDER = ["CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE"]


def _list_statuses(descriptions: list[dict[str, str]]) -> list[str]:
    return [description["status"] for description in descriptions]


def _is_in_order(statuses: list[str]) -> bool:
    """Whether these are IN_ORDER, though one may have passed between two looks."""
    return statuses == [status for status in IN_ORDER if status in statuses]


def test_from_interactions_to_recommendations(local: Local) -> None:
    rows = build_taste_rows()
    local.store.put("s3://data/interactions.csv", encode_csv(rows))
    group = local.create_group()
    dataset = local.create_dataset(group)
    assert _is_in_order(
        _list_statuses(
            local.watch_until_settled(local.start_import(dataset, "s3://data/interactions.csv"))
        )
    )
    solution = local.create_solution(group)
    version = local.create_version(solution)
    description = local.wait(version)
    assert description["status"] == "ACTIVE"
    assert description["trainingHours"] > 0
    assert description["trainingMode"] == "FULL"

    answer = local.client.get_solution_metrics(solutionVersionArn=version)
    assert name_engine(answer, "http://somewhere", on_aws=False) == EMBEDDED
    (everyone, *_) = Evidence.read(read_evidence(answer))
    metrics = answer["metrics"]
    assert everyone.ndcg.value == metrics["normalized_discounted_cumulative_gain_at_25"]
    assert set(metrics) == {
        "coverage",
        "mean_reciprocal_rank_at_25",
        *(f"normalized_discounted_cumulative_gain_at_{k}" for k in (5, 10, 25)),
        *(f"precision_at_{k}" for k in (5, 10, 25)),
    }

    had = {f"u{user}": {i for u, i, _ in rows if u == f"u{user}"} for user in range(60)}
    answers = local.recommend(
        version, [*had, "stranger"], filterArn=local.create_filter(group), numResults=3
    )
    for user, items in answers.items():
        if user == "stranger":
            assert len(items) == 3
            continue
        parity = int(user[1:]) % 2
        assert not set(items) & had[user]
        own_taste = 20 - len(had[user])  # what is left of the 20 items of the user's taste
        assert sum(int(item[1:]) % 2 == parity for item in items) == min(3, own_taste)


def test_output_lines_are_personalizes_to_the_byte(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    local.store.put("s3://data/users.json", b'{"userId":"u1"}\n{"user":"u2"}\n{"userId": "u3"}')
    local.wait_until_active(local.create_batch_job(version, numResults=2))
    first, second, third = local.read_lines("s3://data/out/users.json.out")
    answer = json.loads(first)
    items, scores = answer["output"]["recommendedItems"], answer["output"]["scores"]
    assert first == (
        f'{{"input":{{"userId":"u1"}},"output":{{"recommendedItems":["{items[0]}","{items[1]}"],'
        f'"scores":[{scores[0]},{scores[1]}]}},"error":null}}'
    )
    assert second == (
        '{"input":{"user":"u2"},"output":{"recommendedItems":[]},'
        '"error":"User error: Required fields for the provided recipe are userId"}'
    )
    assert third.startswith('{"input":{"userId":"u3"},')
    assert [info.uri for info in local.store.list("s3://data/out/")] == [
        "s3://data/out/_CHECK",
        "s3://data/out/users.json.out",
    ]


def test_other_data_gives_other_answers(local: Local) -> None:
    rows = build_taste_rows()
    group, dataset = local.import_rows(rows)
    solution = local.create_solution(group, "aws-user-personalization")
    with popular_blends():
        first = local.wait_until_active(local.create_version(solution))
    before = local.recommend(first, ["u0"], job="before", numResults=1)
    hit = [(f"u{n % 60}", "hit", 1_700_000_000 + n) for n in range(600)]
    local.store.put("s3://data/more.csv", encode_csv([*rows, *hit]))
    local.wait_until_active(local.start_import(dataset, "s3://data/more.csv", name="second"))
    with popular_blends():
        second = local.wait_until_active(local.create_version(solution))
    after = local.recommend(second, ["u0"], job="after", numResults=1)
    assert before["u0"] != ["hit"]
    assert after["u0"] == ["hit"]


def test_full_import_replaces_and_incremental_adds(local: Local) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, "aws-user-personalization")

    def recommend_favourites(job: str) -> list[str]:
        version = local.wait_until_active(local.create_version(solution))
        return local.recommend(version, ["u0"], job=job, numResults=100)["u0"]

    new = [(f"u{n % 60}", "new", 1_700_000_000 + n) for n in range(1000)]
    local.store.put("s3://data/new.csv", encode_csv(new))
    local.wait_until_active(
        local.start_import(dataset, "s3://data/new.csv", name="add", importMode="INCREMENTAL")
    )
    added_list = recommend_favourites("added")
    assert added_list[0] == "new"
    assert len(added_list) == 41
    local.wait_until_active(local.start_import(dataset, "s3://data/new.csv", name="replace"))
    assert recommend_favourites("replaced") == ["new"]
    assert len(list((local.root / "home" / "datasets").iterdir())) == 1  # the replaced files went


def test_interactions_imported_after_the_training_count(local: Local) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    filter_arn = local.create_filter(group)
    before = local.recommend(version, ["fresh"], job="before", filterArn=filter_arn, numResults=40)
    evens = [("fresh", f"i{n}", 1_700_000_000 + n) for n in range(0, 30, 2)]
    filler = [("filler", "i1", 1_700_000_000 + n) for n in range(1000)]
    local.store.put("s3://data/more.csv", encode_csv([*evens, *filler]))
    local.wait_until_active(
        local.start_import(dataset, "s3://data/more.csv", name="add", importMode="INCREMENTAL")
    )
    after = local.recommend(version, ["fresh"], job="after", filterArn=filter_arn, numResults=40)
    assert len(before["fresh"]) == 40  # a stranger is offered everything
    assert not set(after["fresh"]) & {item for _, item, _ in evens}
    assert all(int(item[1:]) % 2 == 0 for item in after["fresh"][:5])


def test_a_folder_of_files_is_one_import_and_one_batch(local: Local) -> None:
    rows = build_taste_rows()
    for number in range(3):
        part = encode_csv(rows[number * 500 : (number + 1) * 500])
        local.store.put(f"s3://data/parts/{number}.csv", part)
        users = f'{{"userId":"u{number}"}}\n'.encode()
        local.store.put(f"s3://data/users/{number}.json", users)
    local.store.put("s3://data/users_elsewhere/x.json", b'{"userId":"x"}\n')
    group = local.create_group()
    dataset = local.create_dataset(group)
    local.wait_until_active(local.start_import(dataset, "s3://data/parts/"))
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization"))
    )
    local.wait_until_active(local.create_batch_job(version, "s3://data/users/"))
    output_uris = [info.uri for info in local.store.list("s3://data/out/")]
    assert output_uris == [
        *(f"s3://data/out/{n}.json.out" for n in range(3)),
        "s3://data/out/_CHECK",
    ]
    all_items = local.recommend(version, ["u0"], job="all", numResults=100)["u0"]
    assert len(all_items) == 40  # items of all three parts

    # As on S3, a path that does not end in / is a prefix.
    local.wait_until_active(
        local.create_batch_job(version, "s3://data/users", "s3://data/wide/", jobName="wide")
    )
    assert local.store.head("s3://data/wide/users_elsewhere/x.json.out")


@pytest.mark.parametrize("recipe", ["aws-user-personalization", "aws-user-personalization-v2"])
def test_event_type_and_value_choose_what_is_trained_on(local: Local, recipe: str) -> None:
    rows = build_taste_rows()
    other_rows = encode_csv([(u, f"other-{i}", t) for u, i, t in rows], event_type="skip")
    text = encode_csv(rows) + other_rows.partition(b"\n")[2]
    local.store.put("s3://data/interactions.csv", text)
    group = local.create_group()
    local.wait_until_active(
        local.start_import(local.create_dataset(group), "s3://data/interactions.csv")
    )
    solution = local.create_solution(group, recipe, eventType="watch")
    version = local.wait_until_active(local.create_version(solution))
    items = local.recommend(version, ["u1"], numResults=100)["u1"]
    assert len(items) == 40
    assert not [item for item in items if item.startswith("other-")]
