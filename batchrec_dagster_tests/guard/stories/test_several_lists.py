"""Tests of several lists by the same model: a single training, shared jobs, separate lists.

The tests share a shop that changes its declaration night by night. A test requests the earlier
nights, so that it also passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    count_created,
    declaration,
    definitions,
    module_project,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.teardown import tear_down

pytestmark = pytest.mark.slow

USERS, CONSENTING = 60, 30
LISTS: dict[str, Any] = {
    "newsletter": {
        "users": {"source": "customers.csv", "column": "customer", "filter": 'USERS.CONSENT = "y"'},
        "num_results": 5,
        "rules": {"max_per": {"COLOUR": 2}, "block": {"source": "blocked.csv"}},
        "sinks": {"export": {"path": "mail.csv"}},
    },
    # Without the file of blocked items, this list fails.
    "home": {"num_results": 8, "rules": {"block": {"source": "home.csv"}}},
    "app": {"num_results": 4, "columns": ["COLOUR"], "rules": {"max_per": {"COLOUR": 1}}},
}
ONE_OF_A_COLOUR = {**LISTS["newsletter"], "rules": {"max_per": {"COLOUR": 1}}}


@dataclass
class Shop:
    """A shop with items of four colours. Half of the customers agree to mails."""

    project: Project
    instance: dg.DagsterInstance

    def write_data(self) -> None:
        root, colours = self.project.root, ["red", "green", "blue", "grey"]
        write_ratings(root / "ratings.csv", users=USERS)
        items = [f"{item},{colours[item % 4]}" for item in range(1, 81)]
        (root / "items.csv").write_text("\n".join(["item,colour", *items]) + "\n")
        customers = [f"{user},{'yn'[user % 2]}" for user in range(1, USERS + 1)]
        (root / "customers.csv").write_text("\n".join(["customer,consent", *customers]) + "\n")
        (root / "blocked.csv").write_text("item\n2\n")

    def declare(self, lists: dict[str, Any]) -> None:
        items = {"item": "item", "categories": {"COLOUR": "colour"}}
        users = {"user": "customer", "categories": {"CONSENT": "consent"}}
        self.project.declare(
            declaration(
                "shop",
                "ratings.csv",
                items={"source": "items.csv", "columns": items},
                users={"source": "customers.csv", "columns": users},
                solution={"recipe": "aws-user-personalization"},
                lists=lists,
            )
        )

    def run(self, job: str = "shop_refresh") -> set[str]:
        """Run the job without reports, and return the failed steps."""
        with definitions(self.project) as defs:
            resolved = defs.resolve_job_def(job)
            keys = resolved.asset_layer.selected_asset_keys
            result = resolved.execute_in_process(
                instance=self.instance,
                asset_selection=[key for key in keys if key.path[-1] != "recommendation_report"],
                raise_on_error=False,
            )
        return {event.step_key or "" for event in result.all_events if event.is_step_failure}

    def read_list(self, name: str) -> pl.DataFrame:
        folder = self.project.storage / f"shop/lists/{name}/curated/recommendations"
        return pl.read_parquet(folder / "recommendations.parquet")

    def count_jobs(self) -> tuple[int, int]:
        """Return the numbers of trained models and of batch inference jobs."""
        created = count_created(self.project)
        return created["models"], created["jobs"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield the shop after a night with a failure of the list `home`."""
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        shop.write_data()
        shop.declare(LISTS)
        assert shop.run() == {"shop__home__recommendations"}
        assert shop.count_jobs()[0] == 1
        yield shop


@pytest.fixture(scope="module")
def complete_shop(shop: Shop) -> Shop:
    """Return the shop after a second night that published the list `home` too."""
    (shop.project.root / "home.csv").write_text("item\n4\n")
    assert shop.run() == set()
    return shop


def test_a_list_that_fails_stops_no_other(shop: Shop) -> None:
    newsletter, app = shop.read_list("newsletter"), shop.read_list("app")
    assert newsletter["user_id"].n_unique() == CONSENTING
    assert all(int(user) % 2 == 0 for user in newsletter["user_id"])
    assert app["user_id"].n_unique() == USERS
    with pytest.raises(FileNotFoundError):
        shop.read_list("home")


def test_each_list_has_its_length_its_columns_its_rules_and_its_sinks(shop: Shop) -> None:
    newsletter, app = shop.read_list("newsletter"), shop.read_list("app")
    assert newsletter["rank"].max() == 5
    assert newsletter.filter(item_id="2").is_empty()
    assert "colour" not in newsletter.columns
    assert app["rank"].max() == 4
    assert (
        app.group_by("user_id").agg(pl.col("colour").n_unique())["colour"].to_list() == [4] * USERS
    )
    assert (shop.project.root / "mail.csv").read_text().count("\n") == CONSENTING + 1


def test_a_failed_run_continues_with_the_existing_model_and_job(complete_shop: Shop) -> None:
    # Lists for the same users share a job, regardless of their rules, columns and lengths.
    assert complete_shop.count_jobs() == (1, 2)
    home = complete_shop.read_list("home")
    assert home.height == USERS * 8
    assert home.filter(item_id="4").is_empty()


ALL = ["shop/app", "shop/home", "shop/newsletter"]


@pytest.mark.parametrize(
    ("command", "exit_code", "parts"),
    [
        ("show 1", 0, ALL),
        ("show 1 --pipeline shop", 0, ALL),
        ("show --item 4 --pipeline shop/home", 0, ["shop/home"]),
        ("show 1 --pipeline shop/hoem", 3, ["'shop/hoem'", ", ".join(ALL)]),
        ("list shop --editions", 0, ALL),
        ("list shop/hoem --editions", 3, ["'shop/hoem'", ", ".join(ALL)]),
        ("rollback shop", 3, ["shop/app or shop/home or shop/newsletter"]),
        ("rollback shop/home --to 5", 3, ["edition '5'"]),
        ("diff --pipeline shop", 2, [", ".join(ALL)]),
        ("diff shop shop/home", 3, ["shop/app or shop/home or shop/newsletter"]),
    ],
)
def test_a_pipelines_name_stands_for_all_its_lists(
    complete_shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    exit_code: int,
    parts: list[str],
) -> None:
    monkeypatch.chdir(complete_shop.project.root)
    for name, value in complete_shop.project.process_environment().items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == exit_code, result.output
    output = " ".join(result.output.split())
    for part in parts:
        assert part in output


def test_a_change_of_one_list_changes_no_other(complete_shop: Shop) -> None:
    before = {name: complete_shop.read_list(name) for name in LISTS}
    complete_shop.declare({**LISTS, "newsletter": ONE_OF_A_COLOUR})
    assert complete_shop.run() == set()
    assert not complete_shop.read_list("newsletter").equals(before["newsletter"])
    for name in ("home", "app"):
        assert complete_shop.read_list(name).equals(before[name])
    assert complete_shop.count_jobs() == (1, 2)


def test_a_list_is_refused_and_another_rolled_back_by_itself(complete_shop: Shop) -> None:
    before = {name: complete_shop.read_list(name) for name in LISTS}
    home = {**LISTS["home"], "gate": {"min_ndcg_at_25": 1}}
    write_ratings(complete_shop.project.root / "ratings.csv", users=USERS, seed=1)
    # A list that is no longer declared stays published.
    complete_shop.declare({"newsletter": ONE_OF_A_COLOUR, "home": home})
    assert complete_shop.run() == {"shop__home__recommendations"}
    assert complete_shop.count_jobs()[0] == 2
    assert not complete_shop.read_list("newsletter").equals(before["newsletter"])
    assert complete_shop.run("shop__newsletter_rollback") == set()
    for name in LISTS:
        assert complete_shop.read_list(name).equals(before[name])


def test_a_teardown_leaves_nothing_of_any_list(shop: Shop) -> None:
    result = tear_down(shop.project, "shop", shop.instance, "--storage")
    assert result.exit_code == 0, result.output
    assert not [path for path in (shop.project.storage / "shop").rglob("*") if path.is_file()]
