"""Tests of the example shop as the tutorial and the page on operations show it.

guard/tables/test_rules.py and guard/stories/test_lists.py test that lists obey each rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml

from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.repository.typed_pages import (
    EXAMPLE_SHOP,
    OPERATIONS,
    PROJECT,
    TUTORIAL,
    clone_project,
    list_commands,
    read_code_blocks,
    type_commands,
)

pytestmark = [pytest.mark.slow, nightly("a clone in which commands are typed")]


@dataclass(frozen=True)
class ExampleShop:
    """The example's project after the commands of the tutorial."""

    clone: Path
    folder: Path
    output: str

    def read(self, file: str) -> pl.DataFrame:
        return pl.read_csv(self.folder / file, infer_schema=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ExampleShop:
    clone = clone_project(tmp_path_factory.mktemp("clone") / "batchrec")
    commands = [*list_commands(TUTORIAL, PROJECT), *list_commands(TUTORIAL, EXAMPLE_SHOP)]
    output = type_commands(commands, clone)
    return ExampleShop(clone, clone.parent / "lists", output)


def test_the_tutorial_shows_the_lists_that_the_example_declares(shop: ExampleShop) -> None:
    (shown,) = (
        yaml.safe_load(block.text)["lists"]
        for block in read_code_blocks(TUTORIAL, EXAMPLE_SHOP)
        if block.language == "yaml"
    )
    declared = yaml.safe_load((shop.folder / "lists/defs/shop/defs.yaml").read_text())
    lists = declared["attributes"]["lists"]
    assert shown.keys() == lists.keys()
    for name, settings in shown.items():
        assert {**lists[name], **settings} == lists[name]


def test_the_lists_are_made_again_only_where_the_rules_changed(shop: ExampleShop) -> None:
    assert "failed" not in shop.output
    second_run = shop.output.partition("shop/home: published edition 1")[2]
    second_run, published, diff = second_run.partition("shop/newsletter: published edition 2")
    assert published
    assert "shop/home: published edition 2" in diff
    for unchanged in ("not imported again", "not trained again", "not inferred again"):
        assert unchanged in second_run
    blocked = next(line for line in diff.splitlines() if line.startswith("Alpine planter"))
    before, now = map(int, blocked.split()[-2:])
    assert now == 0
    # The tutorial says "half of the customers".
    assert 0.45 < before / shop.read("mail/newsletter.csv").height < 0.55
    assert "Good to send: the model beats the most popular items" in shop.output


def test_users_who_agreed_get_full_lists_and_austrians_the_advent_calendar_first(
    shop: ExampleShop,
) -> None:
    mail, customers = shop.read("mail/newsletter.csv"), shop.read("data/customers.csv")
    agreed = customers.filter(consent="yes")
    assert set(mail["user_id"]) == set(agreed["customer_id"])
    items = mail.select(f"item_{rank}" for rank in range(1, 13))
    assert all(len({*row} - {None}) == 12 for row in items.iter_rows())
    in_austria = mail["user_id"].is_in(customers.filter(country="AT")["customer_id"].implode())
    firsts = items["item_1"]
    # except for customers who have the item already
    austrian_firsts = firsts.filter(in_austria).to_list()
    assert austrian_firsts.count("P-276") > 0.9 * len(austrian_firsts)
    assert "P-276" not in firsts.filter(~in_austria)


def test_the_page_on_operations_goes_on_with_the_example(shop: ExampleShop) -> None:
    output = type_commands(list_commands(OPERATIONS), shop.clone, shop.folder)
    assert "not imported again" in output
