"""Tests that the example shop writes its lists to PostgreSQL with the uncommented setting."""

from __future__ import annotations

import csv

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import Project, refresh
from batchrec_dagster_tests.guard.example_shop import write_example_shop
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer

pytestmark = pytest.mark.slow


@nightly("a run of the whole shop more")
def test_the_table_has_the_columns_and_rows_of_the_mail(
    project: Project,
    instance: dg.DagsterInstance,
    postgres: PostgresServer,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", postgres_url)
    project.declare({"name": "shop", **write_example_shop(project.root, with_sinks=True)})
    assert refresh(project, "shop", instance).success
    with (project.root / "mail/newsletter.csv").open(encoding="utf-8", newline="") as file:
        mail = [*csv.DictReader(file)]
    columns = ["item", "title", "price", "image", "link", "reason"]
    expected = [
        (row["user_id"], rank, *(row[f"{column}_{rank}"] or None for column in columns))
        for row in mail
        for rank in range(1, 13)
    ]
    rows = postgres.query(
        "SELECT user_id, rank, item_id, title, price, image, link, reason FROM newsletter"
        " ORDER BY user_id, rank",
        url=postgres_url,
    )
    assert [(*row[:4], str(row[4]), *row[5:]) for row in rows] == sorted(expected)
