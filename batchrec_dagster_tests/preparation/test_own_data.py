"""Data of one's own, as the docs show them: from the declaration to interactions and users."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

from batchrec_dagster.personalize.schemas import build_interactions_schema, parse_schema
from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    definitions,
    interactions,
    metadata,
    why,
)
from batchrec_dagster_tests.guard.servers.postgres import postgres_server

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
    """The declaration in that section of the pages."""
    pages = "".join((REPOSITORY / "docs" / page).read_text() for page in PAGES)
    text = pages.partition(f"## {section}\n")[2]
    return text.partition("```yaml\n")[2].partition("```")[0]


def read_users(project: Project) -> list[str]:
    file = project.storage / "shop/transformed/batch_users_input/users.json"
    return [json.loads(line)["userId"] for line in file.read_text().splitlines()]


def read_metadata(result: dg.ExecuteInProcessResult, asset: str) -> Mapping[str, Any]:
    assert result.success, why(result)
    return metadata(result, asset)


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
    read = read_metadata(result, "raw_ratings")
    assert (read["format"], read["files"], read["timestamp_unit"]) == ("parquet", 2, "datetime")
    columns = {column.name: column.type for column in read["dagster/column_schema"].columns}
    assert columns["quantity"] == "int64"
    interactions_kept = interactions(project, "shop")
    assert interactions_kept.height == sum(row % 4 > 0 for row in range(len(EVENTS))) * 2
    assert interactions_kept.get_column("ITEM_ID").str.len_bytes().unique().to_list() == [5]
    assert read_metadata(result, "interactions")["left_out_by_reason"] == {
        "not in the filter": sum(row % 4 == 0 for row in range(len(EVENTS))) * 2
    }
    assert len(read_users(project)) == 60


def test_a_file_with_double_colons(project: Project, instance: dg.DagsterInstance) -> None:
    lines = [f"{user}::{item}::{1 + item % 5}::{START + user}" for user, item in EVENTS]
    (project.root / "ratings.dat").write_text("\n".join(lines * 2) + "\n")
    result = prepare(project, instance, read_documented_yaml("A file with double colons"))
    assert read_metadata(result, "raw_ratings")["timestamp_unit"] == "s"
    good = [(user, item) for user, item in EVENTS if 1 + item % 5 >= 2]
    assert interactions(project, "shop").height == len(good)
    assert read_metadata(result, "interactions")["left_out_by_reason"] == {
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
    read = read_metadata(result, "raw_ratings")
    assert read["timestamp_unit"] == "iso8601"
    assert read["recognised_columns"] == {"user": "userId", "item": "itemId"}
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
    interactions_metadata = read_metadata(result, "interactions")
    assert interactions_metadata["left_out_by_reason"]["not a JSON object"] == 1
    assert (
        interactions_metadata["rows_read"]
        - sum(interactions_metadata["left_out_by_reason"].values())
        == interactions_kept.height
    )
    assert read_users(project) == ["u-1", "u-2"]


def test_orders_and_their_products_by_sql(project: Project, instance: dg.DagsterInstance) -> None:
    folder = project.root / "instacart"
    folder.mkdir()
    # Each user has two orders: one of the even products and one of the odd ones.
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
    assert read_metadata(first, "raw_ratings")["format"] == "parquet"
    day = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp())
    purchases = sorted(EVENTS, key=lambda event: (event[0], event[1] % 2, event[1]))
    assert interactions(project, "shop").select("USER_ID", "ITEM_ID", "TIMESTAMP").rows() == [
        (f"u{user:03}", f"{item:04}", day + item % 2 * user * 86_400) for user, item in purchases
    ]
    second_result = prepare(project, instance, declaration_yaml)
    assert read_metadata(second_result, "raw_ratings")["outcome"] == "unchanged: not copied again"
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
def test_a_shape_of_the_page(
    project: Project,
    instance: dg.DagsterInstance,
    section: str,
    make: Callable[[Path], None],
) -> None:
    make(project.root)
    declaration_yaml = read_documented_yaml(section).replace("s3://shop/", "")
    assert len(declaration_yaml.splitlines()) <= 10
    read_metadata(prepare(project, instance, declaration_yaml), "raw_ratings")
    interactions_kept = interactions(project, "shop")
    assert interactions_kept.height == len(EVENTS)
    assert interactions_kept.get_column("USER_ID").n_unique() == 60


def test_a_postgresql(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    declaration_yaml = read_documented_yaml("A database")
    with postgres_server() as server:
        monkeypatch.setenv("SHOP_DATABASE_URL", server.url())
        server.query(
            "CREATE TABLE orders (order_id serial, customer_id int, sku text, quantity int,"
            " ordered_at timestamptz DEFAULT '2024-01-02 03:04:05+01', updated_at int DEFAULT 1)"
        )
        values = ", ".join(f"({user}, 's{item}', {item % 4})" for user, item in EVENTS)
        server.query(f"INSERT INTO orders (customer_id, sku, quantity) VALUES {values}")
        read_metadata(prepare(project, instance, declaration_yaml), "raw_ratings")
        interactions_kept = interactions(project, "shop")
        assert interactions_kept.select("USER_ID", "ITEM_ID").rows() == [
            (str(user), f"s{item}") for user, item in EVENTS if item % 4
        ]
        assert interactions_kept.get_column("TIMESTAMP").unique().to_list() == [1_704_161_045]
        second_result = prepare(project, instance, declaration_yaml)
        assert (
            read_metadata(second_result, "raw_ratings")["outcome"] == "unchanged: not copied again"
        )
        server.query("UPDATE orders SET quantity = 0, updated_at = 2 WHERE customer_id = 1")
        changed_result = prepare(project, instance, declaration_yaml)
        assert read_metadata(changed_result, "raw_ratings")["outcome"] == "copied"
        assert "1" not in interactions(project, "shop").get_column("USER_ID")


def test_the_schema_asks_for_the_columns_that_are_written() -> None:
    schema = parse_schema(build_interactions_schema(event_type=True, event_value=True))
    assert schema.columns == ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE"]
    value = schema.field("EVENT_VALUE")
    assert value is not None
    assert (value.type, value.nullable) == ("float", True)


FOLDER = "ratings: {source: parts}"


def write_parts(project: Project, *names: str) -> None:
    (project.root / "parts").mkdir(exist_ok=True)
    for name in names:
        rows = "".join(f"{user},{item},{START + user}\n" for user, item in EVENTS)
        (project.root / "parts" / name).write_text(f"user_id,item_id,timestamp\n{rows}")


def test_ids_that_became_decimals_are_warned_of(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = [f"{user},{item}.0,{START + item}" for user, item in EVENTS]
    (project.root / "a.csv").write_text("\n".join(["userId,itemId,timestamp", *rows]))
    read = read_metadata(prepare(project, instance, "ratings: {source: a.csv}"), "raw_ratings")
    assert "the item ids (column itemId) are decimals such as 1.0" in str(read["preview"])


def test_of_a_folder_only_what_has_changed_is_copied_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_parts(project, "a.csv", "b.csv")
    (project.root / "parts" / "empty.csv").touch()
    first = read_metadata(prepare(project, instance, FOLDER), "raw_ratings")
    assert (first["outcome"], first["files"]) == ("copied", 3)
    assert len(first["empty_files"]) == 1
    second_metadata = read_metadata(prepare(project, instance, FOLDER), "raw_ratings")
    assert second_metadata["outcome"] == "unchanged: not copied again"
    (project.root / "parts" / "a.csv").unlink()
    write_parts(project, "c.csv")
    changed_metadata = read_metadata(prepare(project, instance, FOLDER), "raw_ratings")
    assert changed_metadata["outcome"] == "copied 1 of 3"
    raw = project.storage / "shop" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == ["b.csv", "c.csv", "empty.csv"]
    assert interactions(project, "shop").height == 2 * len(EVENTS)


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
def test_what_cannot_be_is_reported_in_one_line(
    project: Project, instance: dg.DagsterInstance, declaration_yaml: str, message: str
) -> None:
    write_parts(project, "a.csv")
    result = prepare(project, instance, declaration_yaml)
    assert not result.success
    assert message in why(result)
    assert "\n" not in why(result)
