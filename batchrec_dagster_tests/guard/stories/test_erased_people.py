"""Tests that an erased person does not come back from a source that still has the person.

The tests share a shop with two lists. A test requests the erasure, so that it also passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    checks,
    declaration,
    module_project,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.oracles.marks import MARK, find_marks, read_files

pytestmark = pytest.mark.slow

PERSON = f"{MARK}-person"


@dataclass
class Shop:
    """A shop with ratings by a person to erase, who has a bad row first."""

    project: Project
    instance: dg.DagsterInstance

    def write_source(self, *, with_person: bool = True) -> None:
        header, *rows = write_ratings(self.project.root / "ratings.csv").read_text().splitlines()
        if with_person:
            rows_of_person = [f"{PERSON},{item},5,1505000000" for item in range(1, 27)]
            rows = [f"{PERSON},7,bad,1505000000", *rows, *rows_of_person]
        (self.project.root / "ratings.csv").write_text("\n".join([header, *rows]) + "\n")
        users = [*range(1, 50), *([PERSON] if with_person else [])]
        text = "\n".join(["user", *(f"{user}" for user in users)]) + "\n"
        (self.project.root / "users.csv").write_text(text)

    def declare(self, **exports: dict[str, Any]) -> None:
        """Declare lists by name, each with an export."""
        users = {"source": "users.csv"}
        settings: dict[str, Any] = {
            "batch_users": users,
            "lists": {
                name: {"num_results": 5, "sinks": {"export": export}}
                for name, export in exports.items()
            },
            "solution": {"recipe": "aws-user-personalization"},
        }
        shop = declaration("shop", "ratings.csv", **settings)
        shop["ratings"] = {**shop["ratings"], "on_bad_rows": "skip"}
        self.project.declare(shop)

    def run(self, *assets: str, report: bool = False) -> dg.ExecuteInProcessResult:
        return refresh(self.project, "shop", self.instance, assets=assets, report=report)

    def forget(self, *users: str) -> Result:
        environment = {
            "BATCHREC_HOME": str(self.project.root / ".batchrec"),
            "BATCHREC_POLL_SECONDS": "0.02",
            "DAGSTER_HOME": str(self.project.root / "dagster"),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.project.root)
            return CliRunner().invoke(main, ["forget", *users, "--yes"], env=environment)

    def list_mentions(self) -> list[str]:
        """Return the files of the deployment and its sinks that contain the person's id."""
        folders = (".batchrec", "mail")
        files = (read_files(self.project.root / folder) for folder in folders)
        return find_marks(chain.from_iterable(files))

    def read_list(self, name: str) -> pl.DataFrame:
        folder = self.project.storage / f"shop/lists/{name}/curated/recommendations"
        return pl.read_parquet(folder / "recommendations.parquet")


def read_csv_users(export: Path) -> set[str]:
    return {*pl.read_csv(export, infer_schema=False).get_column("user_id")}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Yield the shop after two nights.

    Only on the first night, the list `app` was declared, and `home` was exported as CSV.
    """
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(module_project(tmp_path_factory.mktemp("shop")), instance)
        (shop.project.root / "dagster").mkdir()
        shop.write_source()
        app = {"path": "mail/app.csv"}
        for exports in ({"home": {}, "app": app}, {"home": {"format": "jsonl"}}):
            shop.declare(**exports)
            result = shop.run()
            assert result.success, why(result)
        for name in ("home", "app"):
            assert PERSON in {*shop.read_list(name)["user_id"]}
        mentions = " ".join(shop.list_mentions())
        for export in ("recommendations.csv", "recommendations.jsonl", "app.csv"):
            assert export in mentions
        yield shop


@pytest.fixture(scope="module")
def lists_before(shop: Shop) -> dict[str, pl.DataFrame]:
    """Return the published lists by name, before the erasure of the person."""
    return {name: shop.read_list(name) for name in ("home", "app")}


@pytest.fixture(scope="module")
def erased_shop(shop: Shop, lists_before: dict[str, pl.DataFrame]) -> Shop:
    """Return the shop after the erasure of the person, who is still in its source."""
    assert lists_before
    result = shop.forget(PERSON)
    assert result.exit_code == 0, result.output
    return shop


def test_forget_erases_them_from_all_lists_also_from_those_that_are_declared_no_more(
    erased_shop: Shop, lists_before: dict[str, pl.DataFrame]
) -> None:
    assert erased_shop.list_mentions() == []
    for name, lists in lists_before.items():
        assert erased_shop.read_list(name).equals(lists.filter(pl.col("user_id") != PERSON))
    other_users = {*lists_before["app"]["user_id"]} - {PERSON}
    assert read_csv_users(erased_shop.project.root / "mail/app.csv") == other_users


def test_the_next_night_leaves_them_out_and_warns_that_the_source_still_has_them(
    erased_shop: Shop,
) -> None:
    lists = erased_shop.read_list("home")
    for report in (True, False):
        result = erased_shop.run(report=report)
        assert result.success, why(result)
        assert erased_shop.list_mentions() == []
        check = checks(result)["source_without_erased"]
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert PERSON not in (check.description or "")
    assert {*erased_shop.read_list("home")["user_id"]} == {*lists["user_id"]}


def test_once_the_source_has_them_no_more_nothing_warns(erased_shop: Shop) -> None:
    erased_shop.write_source(with_person=False)
    result = erased_shop.run("raw_ratings", "interactions", "batch_users")
    assert result.success, why(result)
    assert checks(result)["source_without_erased"].passed


def test_a_list_of_users_who_all_were_erased_is_refused(erased_shop: Shop) -> None:
    (erased_shop.project.root / "users.csv").write_text(f"user\n{PERSON}\n")
    result = erased_shop.run("raw_ratings", "interactions", "batch_users")
    assert not result.success
    assert "batch_users.source" in why(result)
    assert "erased" in why(result)
    assert erased_shop.list_mentions() == []
