"""What `batchrec check` finds out about the sources of a pipeline."""

from __future__ import annotations

import gzip
import os
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.checking.findings import Finding
from batchrec_dagster.checking.sources import check_sources
from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.preparation.sources import file_start
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.web import Page, serving

ORDERS = "userId,itemId,timestamp,price\n1,7,1700000000,2\n2,8,1700000100,3\n"
ITEMS = {"item": "itemId", "numbers": {"PRICE": "price"}}


def check(root: Path, **attributes: Any) -> list[Finding]:
    pipeline = Pipeline.model_validate({"name": "shop", **attributes})
    environment = {"BATCHREC_HOME": str(root / "home"), **os.environ}
    deployment = Deployment.from_environment(environment)
    return [*check_sources(pipeline, deployment.storage_resource, root)]


def check_message(root: Path, **attributes: Any) -> tuple[str, str]:
    (finding,) = check(root, **attributes)
    return finding.status, finding.message


def test_sources_that_are_as_declared_are_ok(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders/1.csv").touch()
    (tmp_path / "orders/2.csv").write_text(ORDERS)
    pl.read_csv(ORDERS.encode()).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "blocked.csv.gz").write_bytes(gzip.compress(b"sku\n7\n"))
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("customers.csv", "userId,country\n1,AT\n")
    findings = check(
        tmp_path,
        ratings={"source": "orders/*.csv"},
        items={"source": "items.parquet", "columns": ITEMS},
        users={
            "source": "shop.zip!/customers.csv",
            "columns": {"user": "userId", "categories": {"COUNTRY": "country"}},
        },
        recommendations={"rules": {"block": {"source": "blocked.csv.gz"}}},
    )
    assert [(finding.check, finding.status) for finding in findings] == [
        (f"shop {name}", "ok") for name in ("ratings", "items", "users", "rules.block")
    ]
    assert findings[0].message == "orders/*.csv: 2 files, with the declared columns"


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ({"source": "gone.csv"}, "gone.csv: there is no such file"),
        ({"source": "gone/*.csv"}, "gone/*.csv: there is no such folder"),
        (
            {
                "source": "orders.csv",
                "columns": {"user": "usrId", "item": "itemId", "timestamp": "timestamp"},
            },
            "orders.csv has no column 'usrId' (ratings.columns.user); it has: userId, itemId",
        ),
        (
            {"source": "items.csv"},
            "items.csv: could not recognise the user and timestamp column. Found: itemId, title",
        ),
        ({"source": "sql+env://NO_SUCH_URL", "query": "SELECT 1"}, "NO_SUCH_URL is not set"),
        (
            {"source": "orders.csv", "query": "SELECT userId, sku FROM source"},
            'ratings.query: line 1: Binder Error: Referenced column "sku" not found',
        ),
        (
            {"source": "orders.csv", "query": "SELECT userId, price FROM source"},
            "ratings.query: could not recognise the item and timestamp column",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, ratings: dict[str, Any], message: str) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    (tmp_path / "items.csv").write_text("itemId,title\n7,Lamp\n")
    status, found = check_message(tmp_path, ratings=ratings)
    assert status == "failed"
    assert message in found


def test_columns_of_items_users_and_lists_of_ids_are_matched(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    (tmp_path / "members.csv").write_text("name,mail\nAnn,a@example.com\n")
    findings = check(
        tmp_path,
        ratings={"source": "orders.csv"},
        items={"source": "orders.csv", "columns": {"item": "itemId", "numbers": {"COST": "cost"}}},
        batch_users={"source": "members.csv"},
        recommendations={"rules": {"block": {"source": "members.csv", "column": "sku"}}},
    )
    assert [finding.status for finding in findings] == ["ok", "failed", "failed", "failed"]
    assert "no column 'cost' (items.columns.numbers.COST)" in findings[1].message
    assert "could not recognise the user column. Found: name, mail" in findings[2].message
    assert "no column 'sku'" in findings[3].message


def test_queries_and_databases_say_their_columns_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE orders (user_id, item_id, timestamp)")
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path / 'shop.db'}")
    files = {
        "source": "orders.csv",
        "query": "SELECT userId, itemId, error(price)::INT AS timestamp FROM source;",
    }
    assert check_message(tmp_path, ratings=files)[0] == "ok"
    rows = {"source": "sql+env://SHOP_URL", "query": "SELECT * FROM orders -- all\n;"}
    assert check_message(tmp_path, ratings=rows) == (
        "ok",
        "sql+env://SHOP_URL: the query has the declared columns",
    )
    rows["query"] = "SELECT user_id, item_id FROM orders"
    assert "could not recognise the timestamp column" in check_message(tmp_path, ratings=rows)[1]


def test_of_a_large_file_only_the_start_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_start, "TEXT_BYTES", len(ORDERS) - 10)
    monkeypatch.setattr(file_start, "MOST_PACKED_BYTES", 20)
    # Nothing after the first lines could be decoded.
    (tmp_path / "orders.csv").write_bytes(ORDERS.encode() + b"\xff\x00\x81" * 500)
    status, message = check_message(tmp_path, ratings={"source": "orders.csv", "encoding": "utf-8"})
    assert (status, message) == ("ok", "orders.csv: 1 file, with the declared columns")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(ORDERS.encode()))
    assert check_message(tmp_path, ratings={"source": "packed.gz"}) == (
        "ok",
        "packed.gz: 1 file; a run opens it",
    )


def test_of_a_file_on_the_web_only_the_start_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_start, "REMOTE_BYTES", 60)
    with serving() as web:
        # No version: listing it would download it.
        web.pages["/orders.csv"] = Page(ORDERS.encode() * 100, etag=None)
        web.pages["/orders.csv.gz"] = Page(gzip.compress(ORDERS.encode()))
        assert check_message(tmp_path, ratings={"source": web.url("/orders.csv")})[0] == "ok"
        packed = check_message(tmp_path, ratings={"source": web.url("/orders.csv.gz")})
        assert packed[1].endswith("1 file; a run opens it")
        gone = check_message(tmp_path, ratings={"source": web.url("/gone.csv")})
        assert gone[0] == "failed"
        assert "404" in gone[1]
    assert not [*(tmp_path / "home").rglob("*")]


def test_of_objects_in_s3_only_the_start_is_read(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_start, "REMOTE_BYTES", 60)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    s3.store().put(f"s3://{bucket}/orders/1.csv", ORDERS.encode() * 100)
    assert check_message(tmp_path, ratings={"source": f"s3://{bucket}/orders/"}) == (
        "ok",
        f"s3://{bucket}/orders/: 1 file, with the declared columns",
    )
    gone = check_message(tmp_path, ratings={"source": f"s3://{bucket}/gone.csv"})
    assert gone[0] == "failed"
    assert "there is no such object" in gone[1]


def test_what_only_a_run_knows_is_left_to_it(tmp_path: Path) -> None:
    assert check(tmp_path, ratings={"source": "asset://sales/orders"}) == []
    assert check(tmp_path, ratings={"source": "sample://hetrec"}) == []


def test_the_sources_of_each_list_are_opened(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    (tmp_path / "pages.csv").write_text("sku\n7\n")
    findings = check(
        tmp_path,
        ratings={"source": "orders.csv"},
        lists={
            "mail": {"users": {"source": "readers.csv"}},
            "site": {"rules": {"block": {"source": "blocked.csv"}}},
        },
        similar_items={"items": {"source": "pages.csv"}},
    )
    assert [(finding.check, finding.status) for finding in findings] == [
        ("shop ratings", "ok"),
        ("shop/mail batch_users", "failed"),
        ("shop/site rules.block", "failed"),
        ("shop similar_items.items", "ok"),
    ]
