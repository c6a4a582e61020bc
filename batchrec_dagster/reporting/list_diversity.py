"""How many different values of a category the lists have, list by list."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, VALUE_SEPARATOR
from batchrec_dagster.reporting.people import People
from batchrec_dagster.reporting.run_tables import RunTables


@dataclass(frozen=True)
class ValuesPerList:
    """How many different values of a category lists have."""

    category: str
    lists: int
    """How many lists were counted: those of the users who can be looked up, without lists that have
    no value."""
    is_sample: bool
    """Whether there are more lists."""
    numbers: list[tuple[int, int]]
    """How many lists have each number of different values, from the least number to the most, also
    where that is none."""

    def find_quantile(self, share: float) -> int:
        """The number of values that this share of the lists does not exceed."""
        reached = 0
        for values, lists in self.numbers:
            reached += lists
            if reached >= share * self.lists:
                return values
        return 0


def count_values_per_list(tables: RunTables, people: People) -> ValuesPerList | None:
    """The values of the first category on the lists, as far as the page has them.

    None if there is no category, or if no list has a value.

    people: the users who can be looked up. Of many users, they are every n-th by id.
    """
    if not tables.categories or tables.items is None:
        return None
    category = tables.categories[0]
    # A person's list is a flat list of an item's place and two more numbers.
    places = [person[-1][::3] for person in people.people]
    entries = pl.DataFrame(
        {"list": range(len(places)), "place": places},
        schema={"list": pl.UInt32, "place": pl.List(pl.Int64)},
    ).explode("place")
    items = pl.DataFrame(
        {"place": range(len(people.items)), "item": [item[0] for item in people.items]},
        schema={"place": pl.Int64, "item": pl.String},
    )
    values = (
        tables.items.select(
            item=ITEM_ID, value=pl.col(category).cast(pl.String).str.split(VALUE_SEPARATOR)
        )
        .join(items, on="item")
        .explode("value")
        .filter(pl.col("value") != "")
    )
    numbers = (
        entries.join(values, on="place")
        .group_by("list")
        .agg(values=pl.col("value").n_unique().cast(pl.Int64))
        .group_by("values")
        .agg(lists=pl.len().cast(pl.Int64))
    )
    if not numbers.height:
        return None
    lists_by_number = dict(numbers.iter_rows())
    first, last = min(lists_by_number), max(lists_by_number)
    return ValuesPerList(
        category,
        lists=sum(lists_by_number.values()),
        is_sample=len(people.people) < people.served,
        numbers=[(number, lists_by_number.get(number, 0)) for number in range(first, last + 1)],
    )
