"""Tests of the findings of `batchrec check` before a run: their subject, status and fix."""

from __future__ import annotations

import gzip
import sqlite3
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.servers.web import Page, serving
from batchrec_dagster_tests.guard.tables.check_support import check, dagster_home, declare, home

__all__ = ["dagster_home", "home"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]

ORDERS = "userId,itemId,timestamp,price\n1,7,1700000000,2\n2,8,1700000100,3\n"
ITEMS = {"item": "itemId", "numbers": {"PRICE": "price"}}


@pytest.fixture
def another_dagster_home(home: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a new Dagster home that the test may change, and return it."""
    folder = tmp_path / "dagster"
    folder.mkdir(mode=0o700)
    (folder / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


def test_a_healthy_machine_passes_and_nothing_is_left(
    home: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test machine's disk may be nearly full.
    usage = SimpleNamespace(total=10**12, used=10**11, free=9 * 10**11)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    findings = check()
    assert {"settings", "dagster home", "disk", "storage write", "pipelines"} <= set(findings)
    assert {status for status, _ in findings.values()} == {"ok"}
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_offline_only_the_settings_and_the_yaml_are_judged(home: Project) -> None:
    home.declare(declaration("shop", "gone.csv"))
    assert set(check("--offline")) == {"settings", "pipelines"}
    assert check()["shop ratings"][0] == "FAILED"


@pytest.mark.parametrize(
    ("environment", "name", "status", "part"),
    [
        ({"BATCHREC_PERSONALIZE": "moto"}, "settings", "FAILED", "BATCHREC_PERSONALIZE"),
        ({"BATCHREC_STORGE": "s3://b/x"}, "settings", "FAILED", "BATCHREC_STORAGE"),
        ({"DAGSTER_HOME": "/no/such/home"}, "dagster home", "FAILED", "/no/such/home"),
        ({"DAGSTER_HOME": ""}, "dagster home", "warning", "DAGSTER_HOME"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(
    home: Project, environment: dict[str, str], name: str, status: str, part: str
) -> None:
    found = check(**environment)[name]
    assert found[0] == status
    assert part in found[1]


def test_settings_are_read_from_dot_env(home: Project) -> None:
    (home.root / ".env").write_text("BATCHREC_PERSONALIZE=moto\n")
    assert check()["settings"][0] == "FAILED"


@pytest.mark.attack
def test_files_that_everybody_can_read_are_a_warning(
    another_dagster_home: Path, tmp_path: Path
) -> None:
    dagster, storage = another_dagster_home, tmp_path / "srv"
    for mode, status in ((0o755, "warning"), (0o770, "ok"), (0o700, "ok")):
        dagster.chmod(mode)
        found = check()["dagster home"]
        assert found[0] == status
        assert (f"chmod 700 {dagster}" in found[1]) == (status == "warning")
    check(BATCHREC_STORAGE=str(storage))
    assert storage.stat().st_mode & 0o777 == 0o700
    for mode, status in ((0o755, "warning"), (0o771, "warning"), (0o770, "ok"), (0o750, "ok")):
        storage.chmod(mode)
        assert check(BATCHREC_STORAGE=str(storage))["storage folder"][0] == status
        # The permission is reported, not changed.
        assert storage.stat().st_mode & 0o777 == mode


@pytest.mark.attack
@pytest.mark.parametrize(
    "url", ["postgresql://u:owner-secret:x@h:port/d", "postgresql://u:x@h:owner-secret/d", "secret"]
)
def test_the_url_of_dagsters_database_is_not_repeated(another_dagster_home: Path, url: str) -> None:
    pytest.importorskip("dagster_postgres")
    settings = "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES}}}\n"
    (another_dagster_home / "dagster.yaml").write_text(settings)
    findings = check(DAGSTER_POSTGRES=url)
    assert findings["dagster storage"][0] == "FAILED"
    assert "secret" not in str(findings)
    listed = CliRunner().invoke(main, ["list"], env={"DAGSTER_POSTGRES": url})
    assert listed.exit_code == 1
    assert "secret" not in listed.output


def test_a_dagster_storage_that_does_not_open_fails(another_dagster_home: Path) -> None:
    (another_dagster_home / "dagster.yaml").write_text("storage: {tape: {}}\n")
    status, text = check()["dagster storage"]
    assert status == "FAILED"
    assert "dagster.yaml" in text


def test_an_edit_of_dagster_yaml_that_the_home_does_not_have_is_a_warning(
    home: Project, tmp_path: Path, another_dagster_home: Path
) -> None:
    # Without DAGSTER_HOME, the first command copies the project's settings into a home of its own.
    of_project, of_home = home.root / "dagster.yaml", tmp_path / "home/dagster/dagster.yaml"
    of_project.write_text("run_monitoring: {enabled: true}\n")
    assert CliRunner().invoke(main, ["list"], env={"DAGSTER_HOME": ""}).exception is None
    assert check(DAGSTER_HOME="")["dagster settings"] == ("ok", "")

    of_project.write_text("run_monitoring: {enabled: true}\ntelemetry: {enabled: false}\n")
    for environment in ({"DAGSTER_HOME": ""}, {"DAGSTER_HOME": str(of_home.parent)}):
        status, text = check(**environment)["dagster settings"]
        assert status == "warning"
        assert f"cp {of_project} {of_home}" in text
    # Another home has settings of its own.
    assert "dagster settings" not in check(DAGSTER_HOME=str(another_dagster_home))

    of_home.write_bytes(of_project.read_bytes())
    assert check(DAGSTER_HOME="")["dagster settings"] == ("ok", "")


def test_a_full_disk_fails(home: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=10**12, used=10**12, free=10**8)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    status, text = check()["disk"]
    assert status == "FAILED"
    assert "0.1 GB" in text


def test_a_variable_that_a_pipeline_names_has_to_be_set(home: Project) -> None:
    write_ratings(home.root / "ratings.csv")
    home.declare(
        declaration(
            "shop",
            "ratings.csv",
            sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}},
            alerts={"urls_env": "SHOP_ALERTS"},
        )
    )
    findings = check()
    failed = {name for name, (status, _) in findings.items() if status == "FAILED"}
    assert failed == {"shop alerts", "shop postgres"}
    assert "SHOP_ALERTS" in findings["shop alerts"][1]
    assert "SHOP_DATABASE_URL" in findings["shop postgres"][1]


def test_a_database_that_refuses_is_named_without_its_password(
    home: Project, postgres: PostgresServer, postgres_url: str
) -> None:
    write_ratings(home.root / "ratings.csv")
    sinks = {"postgres": {"url_env": "SHOP_DB"}}
    home.declare(declaration("shop", "ratings.csv", sinks=sinks))
    assert check(SHOP_DB=postgres_url)["shop postgres"][0] == "ok"
    reader = f"reader_{postgres_url[-12:]}"
    postgres.query(f"CREATE ROLE {reader} LOGIN PASSWORD 'planted'", url=postgres_url)
    database = postgres_url.rpartition("/")[2]
    status, text = check(SHOP_DB=postgres.url(database, reader, "planted"))["shop postgres"]
    assert status == "FAILED"
    assert "the user needs CREATE on the schema, and to own the table" in text
    assert "planted" not in text
    postgres.query("CREATE TABLE recommendations (user_id text)", url=postgres_url)
    status, text = check(SHOP_DB=postgres_url)["shop postgres"]
    assert status == "FAILED"
    assert "which was not made by this sink" in text


def test_a_filter_that_lets_unknown_items_through_is_a_warning(home: Project) -> None:
    (home.root / "ratings.csv").write_text(ORDERS.replace("itemId", "movieId"))
    (home.root / "items.csv").write_text("id,status\n7,on\n")
    items = {"source": "items.csv", "columns": {"item": "id", "categories": {"STATUS": "status"}}}
    declare(
        home,
        ratings={"source": "ratings.csv"},
        items=items,
        recommendations={"filter": "EXCLUDE ItemID WHERE Items.STATUS != 'on'"},
    )
    status, text = check()["filter"]
    assert status == "warning"
    assert "INCLUDE ItemID WHERE" in text


# Sources


def test_an_asset_that_the_project_does_not_have_is_told(home: Project) -> None:
    orders = 'import dagster as dg\norders = dg.AssetSpec("sales/orders".split("/"))\n'
    (home.package / "defs" / "sales.py").write_text(orders)
    findings = {}
    for key in ("orders", "ordrs", "visits"):
        home.declare(declaration("shop", f"asset://sales/{key}"))
        findings[key] = check("--offline").get("shop ratings", ("ok", ""))
    assert findings["orders"] == ("ok", "")
    assert findings["ordrs"][0] == "FAILED"
    assert "sales/orders" in findings["ordrs"][1]
    # Another code location may have the pipeline.
    assert findings["visits"][0] == "warning"


def test_sources_that_are_as_declared_are_ok(home: Project) -> None:
    root = home.root
    (root / "orders").mkdir()
    (root / "orders/1.csv").touch()
    (root / "orders/2.csv").write_text(ORDERS)
    pl.read_csv(ORDERS.encode()).write_parquet(root / "items.parquet")
    (root / "blocked.csv.gz").write_bytes(gzip.compress(b"sku\n7\n"))
    with zipfile.ZipFile(root / "shop.zip", "w") as archive:
        archive.writestr("customers.csv", "userId,country\n1,AT\n")
    declare(
        home,
        ratings={"source": "orders/*.csv"},
        items={"source": "items.parquet", "columns": ITEMS},
        users={
            "source": "shop.zip!/customers.csv",
            "columns": {"user": "userId", "categories": {"COUNTRY": "country"}},
        },
        recommendations={"rules": {"block": {"source": "blocked.csv.gz"}}},
    )
    findings = check()
    for name in ("ratings", "items", "users", "rules.block"):
        assert findings[f"shop {name}"][0] == "ok"


ORDERS_FILE = {"source": "orders.csv"}
SWAPPED = {"user": "usrId", "item": "itemId", "timestamp": "timestamp"}
# Declarations next to orders.csv, items.csv and members.csv, the finding, and the names in it.
WRONG_SOURCES: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"ratings": {"source": "gone.csv"}}, "shop ratings", ["gone.csv"]),
    ({"ratings": {"source": "gone/*.csv"}}, "shop ratings", ["gone/*.csv"]),
    (
        {"ratings": {**ORDERS_FILE, "columns": SWAPPED}},
        "shop ratings",
        ["'usrId'", "ratings.columns.user", "userId, itemId"],
    ),
    ({"ratings": {"source": "items.csv"}}, "shop ratings", ["user and timestamp", "itemId, title"]),
    (
        {"ratings": {"source": "sql+env://NO_SUCH_URL", "query": "SELECT 1"}},
        "shop ratings",
        ["NO_SUCH_URL"],
    ),
    (
        {"ratings": {**ORDERS_FILE, "query": "SELECT userId, sku FROM source"}},
        "shop ratings",
        ["ratings.query", "line 1", '"sku"'],
    ),
    (
        {"ratings": {**ORDERS_FILE, "query": "SELECT userId, price FROM source"}},
        "shop ratings",
        ["ratings.query", "item and timestamp"],
    ),
    (
        {
            "ratings": ORDERS_FILE,
            "items": {**ORDERS_FILE, "columns": {"item": "itemId", "numbers": {"COST": "cost"}}},
        },
        "shop items",
        ["'cost'", "items.columns.numbers.COST"],
    ),
    (
        {"ratings": ORDERS_FILE, "batch_users": {"source": "members.csv"}},
        "shop batch_users",
        ["name, mail"],
    ),
    (
        {
            "ratings": ORDERS_FILE,
            "recommendations": {"rules": {"block": {"source": "members.csv", "column": "sku"}}},
        },
        "shop rules.block",
        ["'sku'"],
    ),
    (
        {"ratings": ORDERS_FILE, "lists": {"mail": {"users": {"source": "readers.csv"}}}},
        "shop/mail batch_users",
        ["readers.csv"],
    ),
    (
        {"ratings": ORDERS_FILE, "similar_items": {"items": {"source": "pages.csv"}}},
        "shop similar_items.items",
        ["pages.csv"],
    ),
]


@pytest.mark.parametrize(("attributes", "name", "parts"), WRONG_SOURCES)
def test_a_source_that_does_not_fit_is_named(
    home: Project, attributes: dict[str, Any], name: str, parts: list[str]
) -> None:
    (home.root / "orders.csv").write_text(ORDERS)
    (home.root / "items.csv").write_text("itemId,title\n7,Lamp\n")
    (home.root / "members.csv").write_text("name,mail\nAnn,a@example.com\n")
    declare(home, **attributes)
    findings = check()
    assert {key for key, (status, _) in findings.items() if status == "FAILED"} == {name}
    for part in parts:
        assert part in findings[name][1]


def test_queries_and_databases_are_asked_for_columns_without_rows(home: Project) -> None:
    (home.root / "orders.csv").write_text(ORDERS)
    with sqlite3.connect(home.root / "shop.db") as database:
        database.execute("CREATE TABLE orders (user_id, item_id, timestamp)")
    url = f"sqlite:///{home.root / 'shop.db'}"
    no_rows = "SELECT userId, itemId, error(price)::INT AS timestamp FROM source;"
    declare(home, ratings={"source": "orders.csv", "query": no_rows})
    assert check()["shop ratings"][0] == "ok"
    database_rows = {"source": "sql+env://SHOP_URL", "query": "SELECT * FROM orders -- all\n;"}
    declare(home, ratings=database_rows)
    assert check(SHOP_URL=url)["shop ratings"][0] == "ok"
    declare(home, ratings={**database_rows, "query": "SELECT user_id, item_id FROM orders"})
    assert check(SHOP_URL=url)["shop ratings"][0] == "FAILED"


def test_files_on_the_web_are_looked_at_and_not_kept(home: Project, tmp_path: Path) -> None:
    with serving() as web:
        web.pages["/orders.csv"] = Page(ORDERS.encode() * 100, etag=None)
        declare(home, ratings={"source": web.url("/orders.csv")})
        assert check()["shop ratings"][0] == "ok"
        declare(home, ratings={"source": web.url("/gone.csv")})
        status, text = check()["shop ratings"]
    assert status == "FAILED"
    assert "404" in text
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_check_skips_a_source_that_only_a_run_can_read(home: Project) -> None:
    declare(home, ratings={"source": "sample://hetrec"})
    assert "shop ratings" not in check()
