"""Tests that `batchrec diff` counts the changes between two editions' files."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project, declaration
from batchrec_dagster_tests.guard.seams.editions import open_list, publish_rows
from batchrec_dagster_tests.guard.strange_shop import StrangeShop

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_the_project(strange_shop: StrangeShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(strange_shop.project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(strange_shop.project.root / ".batchrec"))


def diff(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["diff", "--pipeline", "shop", *arguments])


def publish_lists(project: Project, *editions: dict[str, str]) -> None:
    """Publish editions of the pipeline `shop`: for each user, the items, a letter each."""
    files = open_list(project.root / ".batchrec", "shop")
    columns = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
    for lists in editions:
        rows = [
            (user, rank, item)
            for user, items in lists.items()
            for rank, item in enumerate(items, 1)
        ]
        publish_rows(files, pl.DataFrame(rows, columns, orient="row"))


def test_two_editions_are_compared(strange_shop: StrangeShop) -> None:
    first, strict = strange_shop.night("first"), strange_shop.night("strict")
    result = diff("1", "2")
    assert result.exit_code == 0, result.output
    kept = strict.lists.join(first.lists, on=["user_id", "item_id"], how="semi").height
    # All lists are full, so that each person's share has the same weight.
    assert f"{kept / first.lists.height:.1%}" in result.output
    assert re.search(r"interactions\.min_rating +3\.5 +4\.5\n", result.output)
    before, now = (night.interactions.height for night in (first, strict))
    assert re.search(rf"interactions +{before:,} +{now:,}\n", result.output)
    reason = "interactions.min_rating changed from 3.5 to 4.5"
    assert f"The metrics cannot be compared: {reason}" in " ".join(result.output.split())


def test_diff_compares_the_live_and_the_earlier_edition_by_default(
    strange_shop: StrangeShop,
) -> None:
    """Edition 4 was rolled back. Readers have edition 3 again, and had edition 2 before it."""
    result = diff("--json")
    assert result.exit_code == 0, result.output
    described = json.loads(result.output)
    assert (described["before"], described["after"]) == (2, 3)


def test_an_edition_that_is_not_kept_is_an_error() -> None:
    result = diff("7")
    assert result.exit_code != 0
    assert "7" in result.output


def test_people_and_items_that_came_and_went_are_counted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    publish_lists(
        project,
        {"ann": "ab", "bob": "ab", "eve": "ac"},
        {"bob": "ac", "eve": "ac", "zoe": "d", "ida": "d"},
    )
    described = json.loads(diff("--json").output)
    assert (described["gained"], described["lost"]) == (2, 1)
    # Among the people with two lists, bob kept half of his items, and eve all.
    assert (described["compared"], described["kept"], described["same_lists"]) == (2, 0.75, 1)
    changes = [
        [
            (item_change["item"], item_change["before"], item_change["after"])
            for item_change in described[name]
        ]
        for name in ("up", "down")
    ]
    assert changes == [[("c", 1, 2)], [("b", 1, 0)]]


@pytest.mark.parametrize(
    ("before", "now", "kept", "same_lists"),
    [("abcd", "ab", 1, 0), ("ab", "abcd", 0.5, 0), ("abcd", "dcba", 1, 1), ("abc", "cd", 0.5, 0)],
    ids=["shorter", "longer", "in another order", "other items"],
)
def test_kept_is_the_share_of_the_items_now_that_were_in_the_list_before(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    now: str,
    kept: float,
    same_lists: int,
) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    publish_lists(project, {"ann": before}, {"ann": now})
    described = json.loads(diff("--json").output)
    assert (described["kept"], described["same_lists"]) == (kept, same_lists)
    sentence = f"{kept:.1%} of a user's items were in their list before, on average over 1 users"
    assert sentence in " ".join(diff().output.split())
