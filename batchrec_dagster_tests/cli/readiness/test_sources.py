"""What `batchrec check` finds out about the sources of a pipeline."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster.cli.readiness.sources import check_sources
from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.preparation.sources import file_start
from batchrec_dagster.reporting.insight.readiness import Readiness
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.web import Page, serving

ORDERS = "userId,itemId,timestamp,price\n1,7,1700000000,2\n2,8,1700000100,3\n"
ITEMS = {"item": "itemId", "numbers": {"PRICE": "price"}}


def check(root: Path, **attributes: Any) -> list[Readiness]:
    pipeline = Pipeline.model_validate({"name": "shop", **attributes})
    environment = {"BATCHREC_HOME": str(root / "home"), **os.environ}
    deployment = Deployment.from_environment(environment)
    return [*check_sources(pipeline, deployment.open_storage(), root)]


def check_message(root: Path, **attributes: Any) -> tuple[str, str]:
    (finding,) = check(root, **attributes)
    return finding.status, finding.message


def test_of_a_large_file_only_the_start_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_start, "MOST_BYTES", 20)
    # Nothing after the first megabyte could be decoded.
    (tmp_path / "orders.csv").write_bytes(ORDERS.encode() * 20_000 + b"\xff\x00\x81" * 500)
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
    monkeypatch.setattr(file_start, "START_BYTES", 60)
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
    monkeypatch.setattr(file_start, "START_BYTES", 60)
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
