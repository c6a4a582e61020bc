"""What happens when somebody changes the rules of the example shop, for good or ill."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster_tests.guard.builders import (
    Project,
    definitions,
    metadata,
    module_project,
    refresh,
    table,
    why,
)
from batchrec_dagster_tests.guard.example_shop import write_example_shop

pytestmark = pytest.mark.slow


class ChangedShop:
    """The example shop, whose rules each test changes. The model stays the same."""

    def __init__(self, project: Project, instance: dg.DagsterInstance) -> None:
        self.project = project
        self._instance = instance
        self._attributes = {"name": "shop", **write_example_shop(project.root)}

    def declare(self, **rules: Any) -> None:
        """Declare the example with these rules besides its own."""
        attributes = copy.deepcopy(self._attributes)
        attributes["recommendations"]["rules"] |= rules
        self.project.declare(attributes)

    def declare_only(self, recommendations: dict[str, Any]) -> None:
        """Declare the example with this block in place of its recommendations."""
        self.project.declare({**self._attributes, "recommendations": recommendations})

    def run(self) -> dg.ExecuteInProcessResult:
        return refresh(self.project, "shop", self._instance)

    @property
    def lists(self) -> pl.DataFrame:
        return table(self.project, "shop")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangedShop]:
    with dg.DagsterInstance.ephemeral() as instance:
        shop = ChangedShop(module_project(tmp_path_factory.mktemp("shop")), instance)
        shop.declare()
        assert shop.run().success
        yield shop


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"only": "ITEMS.SEASON = 12"},
            "recommendations.rules.only: Items.SEASON does not exist: items.columns declares only",
        ),
        (
            {"pin": [{"item": "P-276", "for": 'USERS.LANGUAGE = "de"'}]},
            "recommendations.rules.pin.for: Users.LANGUAGE does not exist: users.columns declares",
        ),
        ({"max_per": {"BRAND": 2}}, "recommendations.rules.max_per.BRAND"),
        ({"pin": [{"item": "P-276", "rank": 13}]}, "pin: P-276 has rank 13, but a list has 12"),
        (
            {"pin": [{"only": "ITEMS.SEASON = 12"}]},
            "recommendations.rules.pin.only: Items.SEASON does not exist: items.columns declares",
        ),
        (
            {"pin": [{"item": "P-276", "only": "ITEMS.STOCK > 9"}]},
            "recommendations.rules.pin.0: write either item or only",
        ),
        ({"pin": [{"rank": 2}]}, "recommendations.rules.pin.0: write either item or only"),
    ],
    ids=["only", "pin.for", "max_per", "pin.rank", "pin.only", "pin.both", "pin.neither"],
)
def test_a_rule_that_cannot_be_is_one_line_at_load_time(
    shop: ChangedShop, rules: dict[str, Any], message: str
) -> None:
    shop.declare(**rules)
    with pytest.raises(DeclarationError) as error, definitions(shop.project):
        pass
    (line,) = str(error.value).splitlines()
    assert "defs/shop/defs.yaml" in line
    assert message in line


def test_a_pin_of_what_is_blocked_is_named_by_a_check(shop: ChangedShop) -> None:
    shop.declare(pin=[{"item": "P-016"}, {"item": "P-276", "rank": 2}])
    result = shop.run()
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["rules_suit_data"].description == (
        "pin: P-016 is on no list: block or only leaves it out"
    )
    pinned = shop.lists.filter(reason="pinned")
    assert pinned.select("rank", "item_id").unique().rows() == [(2, "P-276")]
    assert shop.lists.filter(item_id="P-016").is_empty()


def test_a_rule_that_empties_the_lists_is_named_and_publishes_nothing(shop: ChangedShop) -> None:
    shop.declare()
    assert shop.run().success
    published = shop.lists
    shop.declare(only='ITEMS.STATUS = "Active"', pin=[])
    result = shop.run()
    assert not result.success
    message = why(result)
    assert message.startswith("lists_not_emptied: ")
    assert "only" in message
    assert "\n" not in message
    assert shop.lists.equals(published)


def test_without_rules_lists_are_as_with_an_empty_block(shop: ChangedShop) -> None:
    checksums = []
    for with_block in (False, True):
        shop.declare_only({"num_results": 12, **({"rules": {}} if with_block else {})})
        result = shop.run()
        assert result.success
        assert ("rules" in metadata(result, "recommendations")) is with_block
        columns = ["user_id", "rank", "item_id", "title", "score"]
        content = shop.lists.select(columns).sort("user_id", "rank").write_csv()
        checksums.append(hashlib.sha256(content.encode()).hexdigest())
    assert checksums[0] == checksums[1]
