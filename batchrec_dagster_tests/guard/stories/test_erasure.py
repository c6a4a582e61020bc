"""Tests that `batchrec forget` removes people from all kept bytes and sinks, and keeps them out.

The people to erase have ids that nothing else contains, so that a search of all bytes finds the
ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from moto import mock_aws

from batchrec_dagster_tests.guard.builders import module_project, table, write_ratings
from batchrec_dagster_tests.guard.forgetting_shop import Shop
from batchrec_dagster_tests.guard.oracles.marks import MARK, find_marks
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server

pytestmark = pytest.mark.slow

PLAIN, ODD = f"{MARK}-forget-me", f'{MARK};o"dd, é=1'
LISTS = "shop/curated/recommendations/recommendations.parquet"
USERS = {
    "source": "users.csv",
    "columns": {"user": "id", "categories": {"CONSENT": "consent"}, "numbers": {"AGE": "age"}},
    "on_bad_rows": "skip",
}


def write_source(path: Path, *, nights: int) -> None:
    """Write ratings that begin with the people to erase, with an unreadable row of theirs."""
    write_ratings(path)
    header, *lines = path.read_text().splitlines()
    renamed = {"1": PLAIN, "2": '"{}"'.format(ODD.replace('"', '""'))}
    rows = []
    for line in lines:
        user, _, rest = line.partition(",")
        rows.append(f"{renamed.get(user, user)},{rest}")
    rows += [f"{PLAIN},1,bad,1500000000"]
    rows += [f"{user},{user % 7 + 1},5,{1_511_000_000 + user}" for user in range(3, 3 + nights)]
    path.write_text("\n".join([header, *rows]) + "\n")


def write_users(path: Path) -> None:
    """Write a file of the users of `write_source`. The people to erase have an unreadable row."""
    odd = '"{}"'.format(ODD.replace('"', '""'))
    rows = [f"{PLAIN},yes,bad", f"{PLAIN},yes,30", f"{odd},yes,", f"{odd},yes,31"]
    rows += [f"{user},yes,{user}" for user in range(3, 61)]
    path.write_text("\n".join(["id,consent,age", *rows]) + "\n")


def read_store(store: Store) -> Iterator[tuple[str, bytes]]:
    for key in store.list(""):
        yield key, store.get(key)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return a shop with the people to erase, before any run."""
    project = module_project(tmp_path)
    write_source(project.root / "ratings.csv", nights=1)
    write_users(project.root / "users.csv")
    shop = Shop(project, monkeypatch)
    shop.enter()
    return shop


@pytest.fixture
def dynamodb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield moto's DynamoDB with a table for lists. Personalize is the embedded one, not moto's."""
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws(config={"core": {"passthrough": {"services": ["personalize"]}}}):
        client: Any = boto3.client("dynamodb", region_name="eu-central-1")
        client.create_table(
            TableName="shop-lists",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
        )
        yield client


def without_people(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(~pl.col("user_id").is_in([PLAIN, ODD]))


def test_erased_people_are_in_no_byte_and_no_sink_and_stay_out(
    shop: Shop,
    postgres: PostgresServer,
    postgres_url: str,
    dynamodb: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All places are tested together, which takes three refreshes."""
    monkeypatch.setenv("SHOP_DATABASE_URL", postgres_url)
    shop.declare(
        sinks={
            "postgres": {"url_env": "SHOP_DATABASE_URL"},
            "dynamodb": {"table": "shop-lists"},
            "export": {"path": "mail/lists.csv"},
        },
        # With longer lists, moto's DynamoDB takes seconds to answer.
        recommendations={"num_results": 5},
        segments={"items": ["1", "3"]},
        experiment={"name": "first", "control": "popular", "control_share": 0.3},
        users=USERS,
    )
    for nights in (1, 2):
        write_source(shop.project.root / "ratings.csv", nights=nights)
        assert shop.run(report=nights == 2).success
    storage = shop.project.storage / "shop"
    (older_file,) = (storage / "curated/history/recommendations").iterdir()
    segments_file = storage / "curated/user_segments/user_segments.parquet"
    (older_segments,) = (storage / "curated/history/user_segments").iterdir()
    assert MARK.encode() in older_segments.read_bytes()
    lists, older, segments = (
        pl.read_parquet(file) for file in (shop.project.storage / LISTS, older_file, segments_file)
    )
    assert {PLAIN, ODD} & {*lists.get_column("user_id")}
    assert MARK in (shop.project.root / "mail/lists.csv").read_text()
    marked = find_marks(shop.files)
    assert len(marked) > 15, "the people are in few files: does the search find anything?"

    # A dry run, or an answer other than yes, erases nothing.
    assert shop.is_found(PLAIN, ODD)
    assert shop.forget(PLAIN, ODD, answer="n\n").exit_code == 1
    assert find_marks(shop.files) == marked
    erased = shop.forget(PLAIN, ODD, "--yes")
    assert erased.exit_code == 0, erased.output

    assert find_marks(shop.files) == []
    kept = without_people(lists)
    rows = postgres.query("SELECT user_id, rank, item_id FROM recommendations", url=postgres_url)
    assert sorted(rows) == sorted(kept.select("user_id", "rank", "item_id").rows())
    items = dynamodb.scan(TableName="shop-lists")["Items"]
    assert MARK not in repr(items)
    assert {item["user_id"]["S"] for item in items} == {*kept.get_column("user_id")}
    exported = (shop.project.root / "mail/lists.csv").read_text()
    assert MARK not in exported
    assert len(exported.splitlines()) == 1 + kept.get_column("user_id").n_unique()
    assert table(shop.project, "shop").equals(kept)
    assert pl.read_parquet(older_file).equals(without_people(older))
    assert pl.read_parquet(segments_file).equals(without_people(segments))
    assert len([*(storage / "records/erasures").iterdir()]) == 1

    # The source still has the people. The next refresh makes everything without them.
    assert shop.run(report=True).success
    assert find_marks(shop.files) == []
    assert (storage / "curated/report/index.html").exists()
    users = {*kept.get_column("user_id")}
    assert {*table(shop.project, "shop").get_column("user_id")} == users
    assert not shop.is_found(PLAIN, ODD)


@nightly("a bucket takes two runs more")
def test_in_a_bucket(shop: Shop, s3: S3Server) -> None:
    root = f"s3://{s3.create_bucket()}/prefix"
    store = Store.open(root, s3.environment(OWNER))
    shop.project.environment.update({**s3.environment(OWNER), "BATCHREC_STORAGE": root})
    shop.enter()
    shop.declare(
        sinks={"export": {"format": "jsonl"}},
        solution={"recipe": "aws-user-personalization"},
        users=USERS,
        batch_users={"filter": 'USERS.CONSENT = "yes" AND USERS.AGE > 20'},
    )
    assert shop.run().success
    assert len(find_marks(read_store(store))) > 5
    result = shop.forget(PLAIN, ODD, "--yes")
    assert result.exit_code == 0, result.output
    assert find_marks(read_store(store)) == []
    assert find_marks(shop.files) == []
    lists = pl.read_parquet(store.get(LISTS))
    assert {*lists.get_column("user_id")} == {str(user) for user in range(21, 61)}
    # The next refresh reads the people again, and leaves them out.
    assert shop.run().success
    assert find_marks(read_store(store)) == []
