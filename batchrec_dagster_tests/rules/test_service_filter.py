"""Which items a filter allows, as far as that is known before a list is made."""

from __future__ import annotations

import polars as pl
import pytest

from batchrec_dagster.rules.catalogue import build_catalogue
from batchrec_dagster.rules.service_filter import ServiceFilter


@pytest.mark.parametrize(
    ("expression", "allowed_for_all", "allowed_for_some"),
    [
        ('EXCLUDE ItemID WHERE Items.KIND = "toy"', ["book"], ["book"]),
        # What follows depends on the item whose list it is, or on the user.
        ("EXCLUDE ItemID WHERE Items.KIND = CurrentItem.KIND", [], ["book", "toy"]),
        ("INCLUDE ItemID WHERE Items.PRICE < CurrentItem.PRICE", [], ["book", "toy"]),
        (
            'EXCLUDE ItemID WHERE Items.KIND = "toy" | '
            "EXCLUDE ItemID WHERE Items.PRICE > CurrentItem.PRICE",
            [],
            ["book"],
        ),
        ('EXCLUDE ItemID WHERE Items.KIND = "toy" IF CurrentUser.AGE < 18', [], ["book", "toy"]),
    ],
)
def test_what_is_allowed_whoever_gets_the_list(
    expression: str, allowed_for_all: list[str], allowed_for_some: list[str]
) -> None:
    counts = pl.DataFrame({"ITEM_ID": ["book", "toy"], "interactions": [2, 1]})
    items = pl.DataFrame({"ITEM_ID": ["book", "toy"], "KIND": ["book", "toy"], "PRICE": [7.0, 9.0]})
    catalogue = build_catalogue(counts, items, [])
    service_filter = ServiceFilter(expression, {}, catalogue)
    for mask, expected in (
        (service_filter.allows_for_all, allowed_for_all),
        (service_filter.may_allow, allowed_for_some),
    ):
        assert catalogue.ids.filter(pl.Series(mask[: catalogue.other])).to_list() == expected
