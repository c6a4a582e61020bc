"""Tests of "Your own data" in the docs, from the declaration to interactions and users."""

from __future__ import annotations

import gzip
import json
import random
import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    declaration,
    definitions,
    interactions,
    metadata,
    refresh,
    why,
)
from batchrec_dagster_tests.guard.seams import preparation

pytestmark = pytest.mark.slow

PAGES = ("own-data.md", "queries.md")
START = 1_700_000_000
EVENTS = [(user, item) for user in range(1, 61) for item in range(user % 7, 80, 3)]


def prepare(
    project: Project, instance: dg.DagsterInstance, declaration_yaml: str
) -> dg.ExecuteInProcessResult:
    """Run the pipeline `shop`, declared in YAML, as far as batch_users."""
    project.declare({"name": "shop", **yaml.safe_load(declaration_yaml)})
    asset_keys = [
        dg.AssetKey(["shop", name]) for name in ("raw_ratings", "interactions", "batch_users")
    ]
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=asset_keys, raise_on_error=False
        )


def read_documented_yaml(section: str) -> str:
    """Return the declaration in a section of the pages."""
    pages = "".join((REPOSITORY / "docs" / page).read_text() for page in PAGES)
    text = pages.partition(f"## {section}\n")[2]
    return text.partition("```yaml\n")[2].partition("```")[0]


def read_users(project: Project) -> list[str]:
    file = project.storage / "shop/transformed/batch_users_input/users.json"
    return [json.loads(line)["userId"] for line in file.read_text().splitlines()]


def count_left_out(result: dg.ExecuteInProcessResult) -> dict[str, int]:
    """Return the number of rows left out by reason, from the metadata of `interactions`."""
    assert result.success, why(result)
    counts: dict[str, int] = metadata(result, "interactions")["left_out_by_reason"]
    return counts


def find_time_of_making(project: Project) -> int:
    """Return the time when interactions.csv was written."""
    file = project.storage / "shop/transformed/interactions/interactions.csv"
    return file.stat().st_mtime_ns


def test_orders_of_a_shop_in_parquet(project: Project, instance: dg.DagsterInstance) -> None:
    folder = project.root / "orders"
    folder.mkdir()
    for month in (1, 2):
        pl.DataFrame(
            {
                "customer_id": [user for user, _ in EVENTS],
                "sku": [f"{item:05}" for _, item in EVENTS],
                "ordered_at": [
                    datetime.fromtimestamp(START + month * 2_592_000 + row, UTC)
                    for row in range(len(EVENTS))
                ],
                "quantity": [row % 4 for row in range(len(EVENTS))],
            }
        ).write_parquet(folder / f"2024-0{month}.parquet")
    result = prepare(project, instance, read_documented_yaml("Orders of a shop, in Parquet"))
    interactions_kept = interactions(project, "shop")
    assert interactions_kept.height == sum(row % 4 > 0 for row in range(len(EVENTS))) * 2
    assert interactions_kept.get_column("ITEM_ID").str.len_bytes().unique().to_list() == [5]
    assert count_left_out(result) == {
        "not in the filter": sum(row % 4 == 0 for row in range(len(EVENTS))) * 2
    }
    assert len(read_users(project)) == 60


def test_orders_and_clicks_in_two_files(project: Project, instance: dg.DagsterInstance) -> None:
    # a minute before midnight in Vienna, in summer and in winter
    moments = {"2026-07-14T23:59:00": 1_784_066_340, "2026-01-14T23:59:00": 1_768_431_540}
    orders = [f"{user},{item},{local}" for user, item in EVENTS[::9] for local in moments]
    (project.root / "orders.csv").write_text(
        "\n".join(["customer_id,sku,ordered_at", *orders]) + "\n"
    )
    clicks = [
        {"user": f"{user}", "product": f"{item}", "at": "2026-07-14T21:59:00"}
        for user, item in EVENTS
    ]
    (project.root / "clicks.jsonl").write_text("\n".join(map(json.dumps, clicks)) + "\n")
    result = prepare(project, instance, read_documented_yaml("Orders and clicks in two files"))
    assert result.success, why(result)
    kept = interactions(project, "shop")
    assert dict(kept.group_by("EVENT_TYPE").len().iter_rows()) == {
        "click": len(clicks),
        "purchase": len(orders),
    }
    times = kept.group_by("EVENT_TYPE").agg(pl.col("TIMESTAMP").unique().sort())
    summer, winter = moments.values()
    assert dict(times.iter_rows()) == {"click": [summer], "purchase": [winter, summer]}


def test_a_file_with_double_colons(project: Project, instance: dg.DagsterInstance) -> None:
    lines = [f"{user}::{item}::{1 + item % 5}::{START + user}" for user, item in EVENTS]
    (project.root / "ratings.dat").write_text("\n".join(lines * 2) + "\n")
    result = prepare(project, instance, read_documented_yaml("A file with double colons"))
    good = [(user, item) for user, item in EVENTS if 1 + item % 5 >= 2]
    assert interactions(project, "shop").height == len(good)
    assert count_left_out(result) == {
        "rating below min_rating": 2 * (len(EVENTS) - len(good)),
        "not the latest of its user and item": len(good),
    }
    assert read_users(project) == sorted(map(str, range(1, 61)))


def test_events_in_json_lines(project: Project, instance: dg.DagsterInstance) -> None:
    chance = random.Random(0)
    with (project.root / "events.jsonl").open("w") as file:
        for user, item in EVENTS:
            event = {
                "userId": f"u-{user}",
                "itemId": item,
                "at": datetime.fromtimestamp(START + user, UTC).isoformat(),
                "event": chance.choice(["view", "cart", "purchase"]),
            }
            if event["event"] == "purchase":
                event["price"] = item / 2
            file.write(json.dumps(event) + "\n")
        file.write('{"userId": "u-1", "itemId"')
    (project.root / "subscribers.csv").write_text("user_id\nu-2\nu-1\n")
    result = prepare(
        project, instance, read_documented_yaml("Events in JSON Lines, with event types")
    )
    interactions_kept = interactions(project, "shop")
    assert interactions_kept.columns == [
        "USER_ID",
        "ITEM_ID",
        "TIMESTAMP",
        "EVENT_TYPE",
        "EVENT_VALUE",
    ]
    assert set(interactions_kept.get_column("EVENT_TYPE")) == {"cart", "purchase"}
    purchase_values = interactions_kept.filter(pl.col("EVENT_TYPE") == "purchase").get_column(
        "EVENT_VALUE"
    )
    assert purchase_values.null_count() == 0
    left_out = count_left_out(result)
    assert left_out["not a JSON object"] == 1
    assert len(EVENTS) + 1 - sum(left_out.values()) == interactions_kept.height
    assert read_users(project) == ["u-1", "u-2"]


def test_orders_and_their_products_by_sql(project: Project, instance: dg.DagsterInstance) -> None:
    folder = project.root / "instacart"
    folder.mkdir()
    # Each user has an order of the even products and an order of the odd products.
    (folder / "orders.csv").write_text(
        "order_id,user_id,order_number,days_since_prior_order\n"
        + "".join(f"{2 * u},u{u:03},1,\n{2 * u + 1},u{u:03},2,{u}.0\n" for u in range(1, 61))
    )
    for half in (0, 1):
        (folder / f"order_products__{half}.csv").write_text(
            "order_id,product_id,add_to_cart_order,reordered\n"
            + "".join(f"{2 * u + i % 2},{i:04},{i},0\n" for u, i in EVENTS if u % 2 == half)
        )
    declaration_yaml = read_documented_yaml("SQL over the files")
    assert len(declaration_yaml.splitlines()) <= 10
    first = prepare(project, instance, declaration_yaml)
    assert first.success, why(first)
    day = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp())
    purchases = sorted(EVENTS, key=lambda event: (event[0], event[1] % 2, event[1]))
    assert interactions(project, "shop").select("USER_ID", "ITEM_ID", "TIMESTAMP").rows() == [
        (f"u{user:03}", f"{item:04}", day + item % 2 * user * 86_400) for user, item in purchases
    ]
    made = find_time_of_making(project)
    assert prepare(project, instance, declaration_yaml).success
    assert find_time_of_making(project) == made
    (folder / "orders.csv").write_text("order_id,user\n1,2\n")
    failed_result = prepare(project, instance, declaration_yaml)
    assert re.search(
        'ratings.query in .*/defs/shop/defs.yaml: line 1: .* "user_id" not found',
        why(failed_result),
    )


def write_ga4(root: Path) -> None:
    (root / "ga4").mkdir()
    pl.DataFrame(
        {
            "event_timestamp": [(START + item) * 1_000_000 for _, item in EVENTS],
            "event_name": ["purchase"] * len(EVENTS),
            "user_pseudo_id": [f"{user}.{user}" for user, _ in EVENTS],
            "items": [[{"item_id": f"{item:03}", "quantity": 1}] for _, item in EVENTS],
        }
    ).write_parquet(root / "ga4" / "events_20231114.parquet")


def write_segment(root: Path) -> None:
    (root / "segment-logs").mkdir()
    lines = []
    for user in range(1, 61):
        products = [{"product_id": item, "price": 1} for owner, item in EVENTS if owner == user]
        event = {
            "type": "track",
            "event": "Order Completed",
            "messageId": f"m{user}",
            "anonymousId": f"anonymous-{user}",
            "userId": f"u-{user}" if user % 2 else None,
            "timestamp": "2023-11-14T22:13:20.123Z",
            "properties": {"products": products, "total": 7},
        }
        lines += [event, {"type": "page", "messageId": "p", "properties": {"path": "/"}}]
    text = "\n".join(map(json.dumps, lines))
    (root / "segment-logs" / "1.gz").write_bytes(gzip.compress(text.encode()))


def write_mongo(root: Path) -> None:
    lines = []
    for user in range(1, 61):
        order = {
            "userId": {"$oid": f"{user:024x}"},
            "items": [{"sku": str(item)} for owner, item in EVENTS if owner == user],
            "createdAt": {"$date": "2023-11-14T22:13:20Z"},
        }
        lines.append(json.dumps(order))
    (root / "orders.json").write_text("\n".join(lines))


def write_baskets(root: Path) -> None:
    lines = ["order_id,customer,day,products"]
    for user in range(1, 61):
        items = "|".join(f"p{item}" for owner, item in EVENTS if owner == user)
        lines.append(f"{user},u{user},2023-11-14,{items}")
    (root / "baskets.csv").write_text("\n".join(lines))


def write_delta(root: Path) -> None:
    rows = {
        "customer_id": [user for user, _ in EVENTS] + [999],
        "sku": [f"s{item}" for _, item in EVENTS] + ["x"],
        "ordered_at": [datetime.fromtimestamp(START, UTC)] * (len(EVENTS) + 1),
    }
    write_deltalake(str(root / "lake/orders"), pl.DataFrame(rows).to_arrow())
    DeltaTable(str(root / "lake/orders")).delete("customer_id = 999")


@pytest.mark.parametrize(
    ("section", "make"),
    [
        ("GA4 export", write_ga4),
        ("Segment", write_segment),
        ("Nested JSON", write_mongo),
        ("Baskets", write_baskets),
        ("A Delta table", write_delta),
    ],
)
def test_a_shape_of_the_page(tmp_path: Path, section: str, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    declaration_yaml = read_documented_yaml(section).replace("s3://shop/", "")
    assert len(declaration_yaml.splitlines()) <= 10
    rows = preparation.prepare(tmp_path, yaml.safe_load(declaration_yaml)).rows
    assert len(rows) == len(EVENTS)
    assert len({user for user, _, _ in rows}) == 60


def test_a_database_is_read_again_when_its_version_changes(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    declaration_yaml = read_documented_yaml("A database")
    monkeypatch.setenv("SHOP_DATABASE_URL", f"sqlite:///{project.root}/shop.db")

    def change(statement: str, *values: tuple[object, ...]) -> None:
        with sqlite3.connect(project.root / "shop.db") as connection:
            connection.executemany(statement, values or [()])

    change(
        "CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id INT, sku TEXT,"
        " quantity INT, ordered_at TEXT DEFAULT '2024-01-02 03:04:05+01', updated_at INT DEFAULT 1)"
    )
    change(
        "INSERT INTO orders (customer_id, sku, quantity) VALUES (?, ?, ?)",
        *((user, f"s{item}", item % 4) for user, item in EVENTS),
    )
    result = prepare(project, instance, declaration_yaml)
    assert result.success, why(result)
    interactions_kept = interactions(project, "shop")
    assert interactions_kept.select("USER_ID", "ITEM_ID").rows() == [
        (str(user), f"s{item}") for user, item in EVENTS if item % 4
    ]
    assert interactions_kept.get_column("TIMESTAMP").unique().to_list() == [1_704_161_045]
    made = find_time_of_making(project)
    assert prepare(project, instance, declaration_yaml).success
    assert find_time_of_making(project) == made
    change("UPDATE orders SET quantity = 0, updated_at = 2 WHERE customer_id = 1")
    assert prepare(project, instance, declaration_yaml).success
    assert "1" not in interactions(project, "shop").get_column("USER_ID")


FOLDER = "ratings: {source: parts}"


def write_parts(project: Project, *names: str) -> None:
    (project.root / "parts").mkdir(exist_ok=True)
    for name in names:
        rows = "".join(f"{user},{item},{START + user}\n" for user, item in EVENTS)
        (project.root / "parts" / name).write_text(f"user_id,item_id,timestamp\n{rows}")


def test_files_that_come_to_a_folder_or_go_are_read_the_next_night(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_parts(project, "a.csv", "b.csv")
    (project.root / "parts" / "empty.csv").touch()
    assert prepare(project, instance, FOLDER).success
    made = find_time_of_making(project)
    assert prepare(project, instance, FOLDER).success
    assert find_time_of_making(project) == made
    write_parts(project, "c.csv")
    assert prepare(project, instance, FOLDER).success
    assert interactions(project, "shop").height == 3 * len(EVENTS)
    (project.root / "parts" / "a.csv").unlink()
    assert prepare(project, instance, FOLDER).success
    assert interactions(project, "shop").height == 2 * len(EVENTS)


def test_rows_without_times_are_said_to_have_none(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = "".join(f"{user},{item}\n" for user, item in EVENTS)
    (project.root / "played.csv").write_text(f"user_id,item_id\n{rows}")
    ratings = {"source": "played.csv", "columns": {"timestamp": "none"}}
    solution = {"recipe": "aws-user-personalization"}
    project.declare(declaration("shop", "", ratings=ratings, interactions={}, solution=solution))
    result = refresh(project, "shop", instance, report=True)
    assert result.success, why(result)
    assert interactions(project, "shop").get_column("TIMESTAMP").n_unique() == 1
    page = (project.storage / "shop/curated/report/index.html").read_text()
    assert "without times" in page


@pytest.mark.parametrize(
    ("declaration_yaml", "message"),
    [
        ("ratings: {source: parts/*.tsv}", "no file matches"),
        (
            "ratings: {source: parts}\nbatch_users: {active_since: 2099-01-01}",
            "no user has an interaction since",
        ),
        ("ratings: {source: parts}\nbatch_users: {source: who.csv}", "who.csv: there is no such"),
        ("ratings: {source: parts}\ninteractions: {filter: cost > 1}", "has no column 'cost'"),
    ],
)
def test_an_impossible_declaration_is_reported_in_one_line(
    project: Project, instance: dg.DagsterInstance, declaration_yaml: str, message: str
) -> None:
    write_parts(project, "a.csv")
    result = prepare(project, instance, declaration_yaml)
    assert not result.success
    assert message in why(result)
    assert "\n" not in why(result)
