"""Tests of the recipes for segments, and of filters on items and users in jobs, by boto3.

The data have two tastes: even users like even items, odd users like odd items.
"""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster_tests.guard.servers.personalize import SEEN, Films, Local
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows

pytestmark = pytest.mark.slow

BY_ITEM = "aws-item-affinity"
BY_ATTRIBUTE = "aws-item-attribute-affinity"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Films:
    """Return a group with interactions, items with a kind and a quarter, and users with an age."""
    shop = Films(tmp_path_factory.mktemp("shop"))
    # The item i1 has no quarter.
    items = [f"i{n},{('even', 'odd')[n % 2]}|all,{n // 10 if n != 1 else ''}" for n in range(40)]
    quarter = {"name": "QUARTER", "type": ["null", "int"]}
    fields: list[dict[str, Any]] = [
        {"name": "ITEM_ID"},
        {"name": "KIND", "categorical": True},
        quarter,
    ]
    shop.import_metadata(shop.films, "Items", fields, items)
    ages = [{"name": "USER_ID"}, {"name": "AGE", "type": "int"}]
    shop.import_metadata(shop.films, "Users", ages, [f"u{n},{n}" for n in range(60)])
    return shop


def users_of(answer: dict[str, Any]) -> list[int]:
    assert answer["error"] is None
    users = answer["output"]["usersList"]
    assert len(users) == len(set(users))
    return [int(user[1:]) for user in users]


def test_a_segment_holds_the_users_of_that_taste(shop: Films) -> None:
    version = shop.train(BY_ITEM)
    queries = [{"itemId": "i4"}, {"itemId": "i5"}, {"itemId": "i4"}, {"itemId": "none"}, {"x": 1}]
    even, odd, even_again, unknown, bad = shop.answer_lines(version, queries, numResults=10)
    assert [user % 2 for user in users_of(even)] == [0] * 10
    assert [user % 2 for user in users_of(odd)] == [1] * 10
    assert even_again == even
    assert "none" in unknown["error"]
    assert unknown["output"] == {"usersList": []}
    assert bad == {
        "input": {"x": 1},
        "output": {"usersList": []},
        "error": "User error: Required fields for the provided recipe are itemId",
    }
    metrics = shop.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    assert 0 < metrics["coverage"] <= 1


def test_a_segment_for_attributes_holds_the_users_of_items_that_have_them(shop: Films) -> None:
    version = shop.train(BY_ATTRIBUTE)
    expressions = [
        'ITEMS.KIND = "even"',
        "ITEMS.kind='odd'and ITEMS.QUARTER = 1",
        'ITEMS.KIND = "odd" AND ITEMS.KIND = "even"',
        "ITEMS.QUARTER > 1",
        'ITEMS.GENRE = "odd"',
        'ITEMS.QUARTER = "old"',
    ]
    queries = [{"itemAttributes": expression} for expression in expressions]
    even, odd, empty, *bad = shop.answer_lines(version, queries, numResults=20)
    assert [user % 2 for user in users_of(even)] == [0] * 20
    assert [user % 2 for user in users_of(odd)] == [1] * 20
    for answer, word in zip(
        [empty, *bad], ["item", "character 1", "GENRE", "QUARTER"], strict=True
    ):
        assert word in answer["error"]
        assert answer["output"] == {"usersList": []}


def test_a_solution_for_attributes_needs_items(films: Films) -> None:
    solution = films.create_solution(films.films, BY_ATTRIBUTE, name="attributes")
    with pytest.raises(films.client.exceptions.InvalidInputException, match="Items"):
        films.create_version(solution)


def test_a_segment_has_num_results_users_or_all(shop: Films) -> None:
    version = shop.train(BY_ITEM)
    for number, length in ((1, 1), (60, 60), (5_000_000, 60)):
        (answer,) = shop.answer_lines(version, [{"itemId": "i0"}], numResults=number)
        assert len(users_of(answer)) == length
    (answer,) = shop.answer_lines(version, [{"itemId": "i0"}])
    assert len(users_of(answer)) == 25


def test_a_recipe_is_for_one_kind_of_job(shop: Films) -> None:
    invalid = shop.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="CreateBatchSegmentJob"):
        shop.create_batch_job(shop.train(BY_ITEM))
    with pytest.raises(invalid, match="CreateBatchInferenceJob"):
        shop.create_segment_job(shop.train("aws-user-personalization"))


def test_segments_have_only_users_that_the_filter_lets_in(shop: Films) -> None:
    version = shop.train(BY_ITEM)
    old = shop.create_filter(shop.films, "INCLUDE UserID WHERE Users.AGE >= 30", "old")
    watched = shop.create_filter(
        shop.films, 'EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("watch")', "watched"
    )
    queries = [{"itemId": "i0"}]
    (answer,) = shop.answer_lines(version, queries, numResults=60, filterArn=old)
    assert sorted(users_of(answer)) == [*range(30, 60)]
    (nobody,) = shop.answer_lines(version, queries, filterArn=watched)
    assert users_of(nobody) == []


def test_a_condition_on_the_user_holds_for_each_user_alone(shop: Films) -> None:
    version = shop.train("aws-user-personalization")
    expression = (
        'EXCLUDE ItemID WHERE Items.KIND IN ("odd") IF CurrentUser.AGE < 18'
        f" | {SEEN} IF CurrentUser.AGE >= 18"
    )
    filter_arn = shop.create_filter(shop.films, expression, "by-age")
    users = ["u5", "u17", "u18", "stranger"]
    lists = shop.recommend(version, users, "by-age", filterArn=filter_arn, numResults=40)
    catalogue = {f"i{number}" for number in range(40)}
    evens = {f"i{number}" for number in range(0, 40, 2)}
    had = {item for user, item, _ in build_taste_rows() if user == "u18"}
    expected = [evens, evens, catalogue - had, catalogue]
    assert [set(lists[user]) for user in users] == expected


def test_a_filter_of_another_kind_or_group_is_refused(shop: Films) -> None:
    items = shop.create_filter(shop.films, name="items")
    users = shop.create_filter(shop.films, "EXCLUDE UserID WHERE Users.AGE < 30", "users")
    other_group = shop.create_group("books")
    shop.create_dataset(other_group, name="books")
    other = shop.create_filter(other_group, name="elsewhere")
    invalid = shop.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="UserID"):
        shop.create_segment_job(shop.train(BY_ITEM), filterArn=items)
    with pytest.raises(invalid, match="ItemID"):
        shop.create_batch_job(shop.train("aws-user-personalization"), filterArn=users)
    with pytest.raises(invalid, match="another dataset group"):
        shop.create_batch_job(shop.train("aws-user-personalization"), filterArn=other)


def test_a_missing_input_fails_the_job_and_an_empty_one_has_an_empty_answer(shop: Films) -> None:
    version = shop.train(BY_ITEM)
    job = shop.wait(
        shop.create_segment_job(version, "s3://data/none.json", "s3://data/none/", jobName="none")
    )
    assert job["status"] == "CREATE FAILED"
    assert "s3://data/none.json" in job["failureReason"]
    shop.store.put("s3://data/empty/in.json", b"\n\n")
    arn = shop.create_segment_job(
        version, "s3://data/empty/in.json", "s3://data/empty/out/", jobName="empty"
    )
    shop.wait_until_active(arn)
    assert shop.store.get("s3://data/empty/out/in.json.out") == b""
    assert shop.store.get("s3://data/empty/out/_CHECK") == b""


def test_unknown_users_are_in_no_segment(local: Local) -> None:
    rows = build_taste_rows()
    group, _ = local.import_rows(rows)
    (answer,) = local.answer_lines(
        local.train_version(group, BY_ITEM), [{"itemId": "i0"}], numResults=5000
    )
    assert set(users_of(answer)) == {int(user[1:]) for user, _, _ in rows}
