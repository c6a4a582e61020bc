"""Tests of a shop's lists with rules, newcomers and columns.

The tests share a shop that changes its declaration night by night, and run in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    interactions,
    module_project,
    open_personalize,
    why,
)
from batchrec_dagster_tests.guard.ruled_shop import DAY, PEOPLE, REASONS, UNTITLED, Shop

pytestmark = pytest.mark.slow

# The first newcomer is Austrian, like every third user. Nobody else is from the second's country.
NEWCOMERS = ["new in AT", "new in XX", "new"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield the shop after its first night."""
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        shop.write_data()
        shop.declare()
        first = shop.run()
        assert first.success, why(first)
        yield shop


@pytest.fixture(scope="module")
def first_lists(shop: Shop) -> pl.DataFrame:
    """Return the lists of the first night with the columns of the items."""
    return shop.lists.join(shop.items, left_on="item_id", right_on="sku", maintain_order="left")


def test_everybody_gets_a_whole_list_with_the_declared_columns(
    shop: Shop, first_lists: pl.DataFrame
) -> None:
    lists = shop.lists
    names = ["user_id", "rank", "item_id", "title", "price", "link", *REASONS]
    assert lists.columns == [*names, "score"]
    assert {*lists["user_id"]} == {*PEOPLE, *NEWCOMERS}
    assert lists.height == 63 * 6
    ranks = lists.group_by("user_id").agg("rank")["rank"].to_list()
    assert all(rank == [1, 2, 3, 4, 5, 6] for rank in ranks)
    for row in first_lists.iter_rows(named=True):
        assert (row["title"], row["link"], row["price"]) == (
            row["name"],
            row["page"],
            row["price_right"],
        )


def test_no_list_has_blocked_or_sold_out_items_or_too_many_of_a_kind(
    first_lists: pl.DataFrame,
) -> None:
    assert first_lists.filter(pl.col("stock") == 0).is_empty()
    assert first_lists.filter(item_id="3").is_empty()
    kinds = first_lists.with_columns(pl.col("kind").str.split("|")).explode("kind")
    assert kinds.group_by("user_id", "kind").len()["len"].max() == 2


def test_users_get_recently_bought_items_only_if_people_buy_them_again(
    shop: Shop, first_lists: pl.DataFrame
) -> None:
    events = interactions(shop.project, "shop")
    lately = pl.col("TIMESTAMP") > pl.col("TIMESTAMP").max() - 90 * DAY
    bought = events.filter(lately, pl.col("EVENT_TYPE") == "buy").select(
        user_id="USER_ID", item_id="ITEM_ID"
    )
    bought_again = first_lists.join(bought, on=["user_id", "item_id"], how="semi")
    assert {*bought_again["kind"]} == {"food"}


def test_items_without_a_title_are_not_on_lists_that_show_titles(
    first_lists: pl.DataFrame,
) -> None:
    assert first_lists["title"].null_count() == 0
    assert not {*first_lists["item_id"]} & {f"{item}" for item in UNTITLED}


def test_pins_take_their_rank_in_the_lists_of_those_whom_they_are_for(
    shop: Shop, first_lists: pl.DataFrame
) -> None:
    pinned = first_lists.filter(reason="pinned")
    of_austrians = pinned.filter(pl.col("rank") != 4)
    assert {*of_austrians.select("item_id", "rank").iter_rows()} == {("77", 2)}
    austrians = {user for user in PEOPLE if int(user) % 3 == 0} | {"new in AT"}
    assert {*of_austrians["user_id"]} <= austrians
    assert of_austrians.height > 10
    newest = interactions(shop.project, "shop")["TIMESTAMP"].max()
    assert isinstance(newest, int)
    new = pinned.filter(rank=4)
    since = new["since"].str.to_date().cast(pl.Datetime).dt.epoch("s")
    assert new.height >= 60
    assert (since > newest - 40 * DAY).all()


def test_a_check_warns_of_a_pinned_item_that_is_blocked(shop: Shop) -> None:
    check = checks(shop.nights[0])["rules_suit_data"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "pin: 3 " in (check.description or "")


def test_newcomers_get_items_popular_in_their_country_at_no_cost(shop: Shop) -> None:
    allowed = {*shop.items.filter(pl.col("stock") > 0)["sku"]} - {"3"}
    of_all = [item for item in shop.rank_popular() if item in allowed]
    austrians = [user for user in PEOPLE if int(user) % 3 == 0]
    of_austria = [item for item in shop.rank_popular(austrians) if item in allowed]
    assert of_austria[:6] != of_all[:6]
    first = shop.lists.filter(rank=1)
    for user, items, reason in (
        ("new in AT", of_austria, "popular in AT"),
        ("new in XX", of_all, "popular"),
        ("new", of_all, "popular"),
    ):
        (row,) = first.filter(user_id=user).iter_rows(named=True)
        assert (row["item_id"], row["reason"]) == (items[0], reason)
    client = open_personalize(shop.project)
    (summary,) = client.list_batch_inference_jobs()["batchInferenceJobs"]
    arn = summary["batchInferenceJobArn"]
    job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
    # This folder stands in for the bucket.
    source = job["jobInput"]["s3DataSource"]["path"].partition("/shop/")[2]
    files = [*(shop.project.storage / "shop").glob(f"{source.rstrip('/')}*")]
    files = [path for file in files for path in ([file] if file.is_file() else file.iterdir())]
    lines = "".join(file.read_text() for file in files).splitlines()
    assert {json.loads(line)["userId"] for line in lines} == {*PEOPLE}


def test_the_reason_of_an_item_is_one_that_the_person_had(shop: Shop) -> None:
    because = shop.lists.filter(reason="because")
    assert because.height > 60
    columns = ["USER_ID", "ITEM_ID", "EVENT_TYPE"]
    had = {*interactions(shop.project, "shop").select(columns).iter_rows()}
    assert {*because.select("user_id", "reason_item", "reason_event").iter_rows()} <= had
    titles = dict(shop.lists.select("item_id", "title").iter_rows())
    for item, title in because.select("reason_item", "reason_title").iter_rows():
        assert titles.get(item, title) == title
    unexplained_rows = shop.lists.filter(pl.col("reason") != "because")
    for name in ("reason_item", "reason_title", "reason_event"):
        assert unexplained_rows[name].null_count() == unexplained_rows.height


def test_show_says_what_the_rules_did_to_a_list(shop: Shop) -> None:
    environment = {"BATCHREC_HOME": str(shop.project.root / ".batchrec")}
    (user, *_) = shop.lists.filter(item_id="77", reason="pinned")["user_id"]
    shown = CliRunner().invoke(main, ["show", user], env=environment)
    assert shown.exit_code == 0, shown.output
    assert "Title 77" in shown.output
    assert "recommendations.rules" in shown.output


def test_a_night_without_changes_makes_no_edition_and_no_job(shop: Shop) -> None:
    before, jobs = read_file(shop.project), shop.count_jobs()
    assert shop.run().success
    assert read_file(shop.project) == before
    assert shop.count_jobs() == jobs


def read_file(project: Project) -> bytes:
    folder = project.storage / "shop/curated/recommendations"
    return (folder / "recommendations.parquet").read_bytes()


def test_another_blocked_item_makes_new_lists_of_the_job_that_is_there(shop: Shop) -> None:
    jobs = shop.count_jobs()
    assert shop.lists.filter(item_id="77").height
    shop.block("3", "77")
    assert shop.run().success
    assert shop.lists.filter(item_id="77").is_empty()
    assert shop.lists.height == 63 * 6
    assert shop.count_jobs() == jobs


def test_other_columns_make_new_lists_of_the_job_that_is_there(shop: Shop) -> None:
    jobs, before = shop.count_jobs(), shop.lists
    shop.declare(columns=["title", "link", "KIND"])
    assert shop.run().success
    names = ["user_id", "rank", "item_id"]
    assert shop.lists.columns[:6] == [*names, "title", "link", "kind"]
    assert shop.lists.select(names).equals(before.select(names))
    # If lists show no titles, items without a title may be listed.
    shop.declare(columns=["link", "KIND"])
    assert shop.run().success
    assert {*shop.lists["item_id"]} & {f"{item}" for item in UNTITLED}
    assert shop.count_jobs() == jobs


def test_new_links_are_in_new_lists_and_titles_that_lists_do_not_have_make_none(
    shop: Shop,
) -> None:
    jobs = shop.count_jobs()
    shop.change_items("shop.example", "new.example")
    assert shop.run().success
    assert shop.lists["link"].str.starts_with("https://new.example/").all()
    before = read_file(shop.project)
    shop.change_items("Title", "Name")
    assert shop.run().success
    assert read_file(shop.project) == before
    assert shop.count_jobs() == jobs


def test_new_users_get_a_list_and_removed_users_lose_theirs(shop: Shop) -> None:
    file = shop.project.root / "people.csv"
    file.write_text(file.read_text().replace("new in XX,XX", "late,AT"))
    assert shop.run().success
    assert {*shop.lists["user_id"]} == {*PEOPLE, "new in AT", "late", "new"}


def test_new_facts_of_items_are_imported_and_obeyed(shop: Shop) -> None:
    (item, *_) = shop.lists.filter(pl.col("reason").is_null())["item_id"]
    imports = shop.count_imports()
    # title, page, kind and stock; the item is sold out
    file = shop.project.root / "items.csv"
    rows = [row.split(",") for row in file.read_text().splitlines()]
    rows = [[*row[:4], "0", *row[5:]] if row[0] == item else row for row in rows]
    file.write_text("\n".join(",".join(row) for row in rows) + "\n")
    assert shop.run().success
    assert shop.lists.filter(item_id=item).is_empty()
    assert shop.count_imports() == imports + 1


def test_newcomers_can_be_left_out(shop: Shop) -> None:
    shop.declare(newcomers="leave_out")
    assert shop.run().success
    assert {*shop.lists["user_id"]} == {*PEOPLE}


def test_rules_that_empty_the_lists_publish_nothing_and_are_named(shop: Shop) -> None:
    before = read_file(shop.project)
    shop.declare(rules={"only": "ITEMS.STOCK > 100"})
    result = shop.run()
    assert not result.success
    assert "only" in why(result)
    assert read_file(shop.project) == before


def test_rules_that_leave_too_few_results_of_the_model_are_named_by_a_check_that_warns(
    shop: Shop,
) -> None:
    shop.declare(rules={"only": "ITEMS.STOCK > 3", "max_per": {"KIND": 1}})
    result = shop.run()
    assert result.success, why(result)
    check = checks(result)["results_enough_for_rules"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_without_rules_lists_are_the_models(shop: Shop) -> None:
    shop.declare(rules={}, columns=None, newcomers="leave_out", exclude_seen=True)
    result = shop.run()
    assert result.success, why(result)
    lists = shop.lists
    assert lists.height == 60 * 6
    assert not {*lists["item_id"]} & {f"{item}" for item in UNTITLED}
    assert lists["score"].null_count() == 0
    had = interactions(shop.project, "shop").select(user_id="USER_ID", item_id="ITEM_ID")
    assert lists.join(had, on=["user_id", "item_id"], how="semi").is_empty()


def test_a_filter_of_ones_own_is_applied_by_personalize_with_exclude_seen(shop: Shop) -> None:
    shop.declare(
        rules={},
        columns=["KIND"],
        newcomers="leave_out",
        exclude_seen=True,
        filter='INCLUDE ItemID WHERE Items.KIND IN ("food", "books")',
    )
    result = shop.run()
    assert result.success, why(result)
    assert {*shop.lists["kind"]} == {"food", "books"}
    had = interactions(shop.project, "shop").select(user_id="USER_ID", item_id="ITEM_ID")
    assert shop.lists.join(had, on=["user_id", "item_id"], how="semi").is_empty()
