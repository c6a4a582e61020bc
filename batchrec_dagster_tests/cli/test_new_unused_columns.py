"""`batchrec new` names the columns that it does not use, and suggests what they may be for."""

from __future__ import annotations

import random
import re
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.cli.new_support import (
    read_declaration,
    run_new,
    working_project,
    write_ratings_file,
)
from batchrec_dagster_tests.support import Project, refresh, table, why

__all__ = ["working_project"]

FILES = ("--ratings", "orders.csv", "--items", "products.csv")


def write_shop(folder: Path) -> None:
    """Orders, some of which came back, and products, some of which cannot be bought."""
    chance = random.Random(0)
    orders = [
        f"{number},{number % 60},{chance.randrange(80)},2024-01-{1 + number % 28:02},"
        f"{('paid', 'shipped', 'cancelled')[number % 3]},{number % 4},{int(number % 7 == 0)},yes"
        for number in range(4000)
    ]
    header = "order_id,customer_id,sku,ordered_at,status,quantity,returned_qty,newsletter"
    (folder / "orders.csv").write_text("\n".join([header, *orders]) + "\n")
    products = [
        f"{item},Thing {item},{item % 4},{('active', 'on hold')[item % 5 == 0]},{item % 3},"
        f"{4_000_000_000 + item},text {item}"
        for item in range(80)
    ]
    header = "sku,name,stock,status,supplier_id,ean,notes"
    (folder / "products.csv").write_text("\n".join([header, *products]) + "\n")


def read_text(project: Project) -> str:
    return (project.package / "defs" / "shop" / "defs.yaml").read_text()


def uncomment(project: Project) -> None:
    """Take the mark off all suggestions in the YAML, as somebody does who wants them."""
    suggestion = re.compile(r"^( +)# (?= *(?:filter|categories|numbers|rules|only|[A-Z_]+):)", re.M)
    file = project.package / "defs" / "shop" / "defs.yaml"
    file.write_text(suggestion.sub(r"\1", file.read_text()))


def test_what_is_not_used_is_named_and_suggested(working_project: Project) -> None:
    write_shop(working_project.root)
    code, output = run_new("shop", *FILES)
    assert code == 0, output
    assert "\nnot used: order_id, status, quantity, returned_qty, newsletter\n" in output
    assert "\nnewsletter: to send lists only to those who agreed, give a file of them" in output
    assert "\nnot used: stock, status, supplier_id, ean, notes\n" in output
    assert "\nin defs.yaml as comments: stock, status\n" in output
    columns = read_declaration(working_project)["items"]["columns"]
    assert columns == {"item": "sku", "title": "name"}
    lines = read_text(working_project).splitlines()
    assert (
        "    # filter: status IN ('paid', 'shipped') AND quantity > 0 AND returned_qty = 0" in lines
    )
    start = lines.index("      title: name") + 1
    assert lines[start : start + 4] == [
        "      # categories:",
        "      #   STATUS: status   # active, on hold",
        "      # numbers:",
        "      #   STOCK: stock   # 0 to 3",
    ]
    start = lines.index("    # rules:                    # needs STOCK and STATUS in items.columns")
    assert lines[start + 1] == """    #   only: 'ITEMS.STOCK > 0 AND ITEMS.STATUS = "active"'"""


@pytest.mark.slow
def test_suggestions_work_once_they_are_no_comments(
    working_project: Project, instance: dg.DagsterInstance
) -> None:
    write_shop(working_project.root)
    code, output = run_new("shop", *FILES, "--items-category", "SUPPLIER=supplier_id")
    assert code == 0, output
    assert "        # STATUS: status   # active, on hold" in read_text(working_project)

    uncomment(working_project)

    attributes = read_declaration(working_project)
    assert attributes["interactions"]["filter"].startswith("status IN ('paid', 'shipped') AND")
    assert attributes["items"]["columns"] == {
        "item": "sku",
        "title": "name",
        "categories": {"SUPPLIER": "supplier_id", "STATUS": "status"},
        "numbers": {"STOCK": "stock"},
    }
    # The orders are random, so that no model is better than popular items.
    anyway = {"ops": {"shop__recommendations": {"config": {"skip_quality_gate": True}}}}
    result = refresh(working_project, "shop", instance, anyway)
    assert result.success, why(result)
    listed = table(working_project, "shop").get_column("item_id").cast(pl.Int64)
    assert len(listed)
    assert ((listed % 4 > 0) & (listed % 5 > 0)).all()


@pytest.mark.parametrize(
    ("name", "values", "suggestion"),
    [
        ("stock", ["0", "7"], ("numbers", "STOCK > 0")),
        ("stock", ["3", "7"], ("numbers", "STOCK > 0")),
        ("in_stock", ["yes", "no"], ("categories", 'IN_STOCK = "yes"')),
        ("active", ["1", "0"], ("numbers", "ACTIVE > 0")),
        ("status", ["1", "2"], ("numbers", None)),
        ("Status", ["live", "active", "gone"], ("categories", 'STATUS IN ("active", "live")')),
        ("status", ["grün", "rot"], ("categories", 'STATUS = "grün"')),
        ("status", ['"a"', "'b'"], ("categories", None)),
        ("status", ["live"], ("categories", None)),
        ("colour", ["red", "blue"], ("categories", None)),
        ("weight", ["1.5", "2"], ("numbers", None)),
        ("supplierId", ["1", "2"], (None, None)),
        ("paid", ["1", "2"], ("numbers", None)),
        ("???", ["a", "b"], (None, None)),
        ("empty", [""], (None, None)),
    ],
)
def test_content_says_what_a_column_is_and_its_name_what_for(
    working_project: Project,
    name: str,
    values: list[str],
    suggestion: tuple[str | None, str | None],
) -> None:
    write_ratings_file(working_project.root / "ratings.csv", "userId,productId,rating,timestamp")
    rows = [f"{item}\tProduct {item}\t{values[item % len(values)]}" for item in range(80)]
    products = working_project.root / "products.tsv"
    products.write_text("\n".join([f"id\tname\t{name}", *rows]) + "\n", encoding="utf-8")
    code, output = run_new("shop", "--ratings", "ratings.csv", "--items", "products.tsv")
    assert code == 0, output
    assert f"not used: {name}\n" in output
    text = read_text(working_project)
    kind, condition = suggestion
    kinds = re.findall("^      # (categories|numbers):$", text, re.MULTILINE)
    assert kinds == ([kind] if kind else [])
    only = re.findall("^    #   only: 'ITEMS.(.*)'$", text, re.MULTILINE)
    assert only == ([condition] if condition else [])
    uncomment(working_project)
    read_declaration(working_project)


def test_names_and_values_of_columns_run_nothing(working_project: Project) -> None:
    write_ratings_file(working_project.root / "ratings.csv", "userId,productId,rating,timestamp")
    name = "status {{ env.HOME }} # x: y"
    values = ("{{ 1 + 1 }}", "{{ 2 }}")
    rows = [f"{item};Product {item};{values[item % 2]}" for item in range(80)]
    products = working_project.root / "products.csv"
    products.write_text("\n".join([f"id;name;{name}", *rows]) + "\n")
    code, output = run_new("shop", "--ratings", "ratings.csv", "--items", "products.csv")
    assert code == 0, output
    field = "STATUS_ENV_HOME_X_Y"
    text = read_text(working_project)
    text = re.sub(rf"^( +)# (?= *(?:categories|rules|only|{field}):)", r"\1", text, flags=re.M)
    (working_project.package / "defs" / "shop" / "defs.yaml").write_text(text)
    attributes = read_declaration(working_project)
    assert list(attributes["items"]["columns"]["categories"]) == [field]
    only = attributes["recommendations"]["rules"]["only"]
    assert only.startswith('{{ "ITEMS.STATUS_ENV_HOME_X_Y = ')
