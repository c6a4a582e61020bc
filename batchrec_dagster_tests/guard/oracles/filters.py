"""Random filters and random data, and a plain, slow evaluator of the filters."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

HISTORY = 3  # The number of latest interactions of a user and event type that count in these tests.
ITEMS, USERS = [f"i{n}" for n in range(6)], [f"u{n}" for n in range(5)]
WORDS = ["a", "b", "A", 'say "b" it\'s', "\\", "ß", ""]
EVENTS = ["click", "Click", "watch", "İ"]
NUMBERS = [-3, 0, 1, 7, 0.1, 2.5, -1e9, 1e300]
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
STRING_FIELDS = {"Items": ["GENRES", "ITEM_ID"], "Users": ["PLAN"], "Interactions": ["EVENT_TYPE"]}
NUMBER_FIELDS = {"Items": ["YEAR", "PRICE", "RATING"], "Users": ["AGE"], "Interactions": []}
Row = Mapping[str, Any]


@dataclass
class Compare:
    """A comparison of a column with one or more values."""

    dataset: str
    name: str
    sign: str
    operands: list[Any]


@dataclass
class Join:
    """Several conditions, joined by AND or OR."""

    word: str
    parts: list[Any]


@dataclass
class Part:
    """An expression in the chain of a filter."""

    include: bool
    target: str
    condition: Any
    users: list[Compare] = field(default_factory=list)


# --- Random expressions ---


@st.composite
def compares(draw: st.DrawFn, dataset: str, *, written_dataset: str | None = None) -> Compare:
    names = [*STRING_FIELDS[dataset], *NUMBER_FIELDS[dataset]]
    name = draw(st.sampled_from(names))
    dataset_name = written_dataset or dataset
    if name in NUMBER_FIELDS[dataset]:
        sign = draw(st.sampled_from(list(SIGNS)))
        return Compare(dataset_name, name, sign, [draw(st.sampled_from(NUMBERS))])
    words = st.sampled_from(
        ["click", "Watch", "İ", "*"]
        if name == "EVENT_TYPE"
        else [*ITEMS, "z"]
        if name == "ITEM_ID"
        else WORDS
    )
    sign = draw(st.sampled_from(["IN", "IN", "NOT IN", "=", "!="]))
    if sign in ("=", "!="):
        return Compare(dataset_name, name, sign, [draw(words)])
    return Compare(dataset_name, name, sign, draw(st.lists(words, min_size=1, max_size=3)))


def conditions(dataset: str) -> st.SearchStrategy[Any]:
    return st.recursive(
        compares(dataset),
        lambda inner: st.builds(
            Join, st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=2, max_size=3)
        ),
        max_leaves=5,
    )


def parts(target: str) -> st.SearchStrategy[list[Part]]:
    datasets = ["Items", "Interactions"] if target == "ItemID" else ["Users", "Interactions"]
    ifs = (
        st.lists(compares("Users", written_dataset="CurrentUser"), max_size=2)
        if target == "ItemID"
        else st.just([])
    )
    part = st.sampled_from(datasets).flatmap(
        lambda dataset: st.builds(Part, st.booleans(), st.just(target), conditions(dataset), ifs)
    )
    return st.lists(part, min_size=1, max_size=4)


# --- Expressions as text ---


@dataclass
class Writer:
    """A writer of expressions in random upper and lower case, with random white space."""

    dice: random.Random

    def write_word(self, text: str) -> str:
        return "".join(self.dice.choice([c.upper(), c.lower()]) for c in text)

    def write_gap(self, min_length: int = 1) -> str:
        return "".join(self.dice.choice(" \n\t ") for _ in range(self.dice.randint(min_length, 2)))

    def write_name(self, dataset: str, column: str) -> str:
        dot = f"{self.write_gap(0)}.{self.write_gap(0)}"
        return f"{self.write_word(dataset)}{dot}{self.write_word(column)}"

    def write_value(self, value: Any) -> str:
        if not isinstance(value, str):
            return repr(value)
        mark = self.dice.choice("\"'")
        return mark + value.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark

    def write_compare(self, test: Compare) -> str:
        sign = self.write_gap().join(self.write_word(word) for word in test.sign.split(" "))
        operands = f",{self.write_gap(0)}".join(self.write_value(value) for value in test.operands)
        bare = test.sign not in ("IN", "NOT IN")
        if not bare or self.dice.random() < 0.3:
            operands = f"({self.write_gap(0)}{operands}{self.write_gap(0)})"
        name = self.write_name(test.dataset, test.name)
        return f"{name}{self.write_gap()}{sign}{self.write_gap()}{operands}"

    def write_condition(self, condition: Any, above: str = "") -> str:
        if isinstance(condition, Compare):
            text = self.write_compare(condition)
            needs_parentheses = False
        else:
            separator = f"{self.write_gap()}{self.write_word(condition.word)}{self.write_gap()}"
            text = separator.join(
                self.write_condition(part, condition.word) for part in condition.parts
            )
            needs_parentheses = condition.word == "OR" and above == "AND"
        return (
            f"({text}{self.write_gap(0)})"
            if needs_parentheses or self.dice.random() < 0.2
            else text
        )

    def write_part(self, part: Part) -> str:
        words = [
            self.write_word("INCLUDE" if part.include else "EXCLUDE"),
            self.write_word(part.target),
            self.write_word("WHERE"),
            self.write_condition(part.condition),
        ]
        if part.users:
            separator = f"{self.write_gap()}{self.write_word('AND')}{self.write_gap()}"
            words += [
                self.write_word("IF"),
                separator.join(self.write_compare(test) for test in part.users),
            ]
        return self.write_gap().join(words)

    def write_chain(self, chain: Sequence[Part]) -> str:
        return f"{self.write_gap(0)}|{self.write_gap(0)}".join(
            self.write_part(part) for part in chain
        )


# --- Random data ---


@dataclass
class World:
    """The datasets of a dataset group, as rows and as the data frames that a job reads."""

    items: Mapping[str, Row]
    users: Mapping[str, Row]
    interactions: list[tuple[str, str, int, str | None]]

    def read(self, dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
        if dataset_type == "INTERACTIONS":
            schema: Any = {
                "USER_ID": pl.String,
                "ITEM_ID": pl.String,
                "TIMESTAMP": pl.Int64,
                "EVENT_TYPE": pl.String,
            }
            return pl.DataFrame(self.interactions, schema=schema, orient="row").select(columns)
        if dataset_type == "ITEMS":
            schema = {
                "ITEM_ID": pl.String,
                "GENRES": pl.String,
                "YEAR": pl.Int32,
                "PRICE": pl.Float64,
                "RATING": pl.Float32,
            }
            return pl.DataFrame(list(self.items.values()), schema=schema).select(columns)
        schema = {"USER_ID": pl.String, "PLAN": pl.String, "AGE": pl.Int64}
        return pl.DataFrame(list(self.users.values()), schema=schema).select(columns)

    def find_event_types(self) -> dict[tuple[str, str], set[str]]:
        """Return the event types that count, by user and item."""
        events_by_kind: dict[tuple[str, str], int] = {}
        types_by_pair: dict[tuple[str, str], set[str]] = {}
        for user, item, _, event in sorted(self.interactions, key=lambda row: -row[2]):
            if event is None:
                continue
            kind = (user, event.lower())
            events_by_kind[kind] = events_by_kind.get(kind, 0) + 1
            if events_by_kind[kind] <= HISTORY:
                types_by_pair.setdefault((user, item), set()).add(event.lower())
        return types_by_pair


@st.composite
def worlds(draw: st.DrawFn) -> World:
    numbers = st.none() | st.sampled_from(NUMBERS)
    whole = st.none() | st.sampled_from([-3, 0, 1, 7])
    words = st.none() | st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("|".join)
    items = {
        item: {
            "ITEM_ID": item,
            "GENRES": draw(words),
            "YEAR": draw(whole),
            "PRICE": draw(numbers),
            "RATING": draw(st.none() | st.sampled_from([0.1, 2.5, 7])),
        }
        for item in [*ITEMS, "other"]
        if draw(st.integers(0, 5))
    }
    users = {
        user: {"USER_ID": user, "PLAN": draw(words), "AGE": draw(whole)}
        for user in USERS
        if draw(st.integers(0, 5))
    }
    rows = st.tuples(
        st.sampled_from(USERS[:-1]),
        st.sampled_from([*ITEMS, "other"]),
        st.integers(0, 5),
        st.none() | st.sampled_from(EVENTS),
    )
    return World(items, users, draw(st.lists(rows, min_size=10, max_size=40)))


# --- The plain evaluator ---


def holds_for_compare(test: Compare, row: Row) -> bool:
    cell = row.get(test.name)
    if cell is None:
        return False
    if isinstance(cell, set):  # The cell of the event types is a set.
        hit = "*" in test.operands or any(value.lower() in cell for value in test.operands)
        return hit == (test.sign in ("IN", "="))
    if isinstance(cell, str):
        hit = cell in test.operands or any(value in test.operands for value in cell.split("|"))
        return hit == (test.sign in ("IN", "="))
    (value,) = test.operands
    if test.name == "RATING":
        with np.errstate(over="ignore"):
            cell, value = float(np.float32(cell)), float(np.float32(value))
    return SIGNS[test.sign](cell, value)


def holds_for_row(condition: Any, row: Row) -> bool:
    if isinstance(condition, Compare):
        return holds_for_compare(condition, row)
    results = [holds_for_row(part, row) for part in condition.parts]
    return all(results) if condition.word == "AND" else any(results)


def find_first_compare(condition: Any) -> Compare:
    return condition if isinstance(condition, Compare) else find_first_compare(condition.parts[0])


def is_allowed(chain: Sequence[Part], rows: Mapping[str, Row], user: Row) -> bool:
    """Return whether the filter allows an item in a list, or a user in a segment.

    rows: the rows of the item or user, by dataset.
    user: the row of the current user.
    """
    include_results: list[bool] = []
    exclude_results: list[bool] = []
    for part in chain:
        if not all(holds_for_compare(test, user) for test in part.users):
            continue
        row = rows[find_first_compare(part.condition).dataset]
        (include_results if part.include else exclude_results).append(
            holds_for_row(part.condition, row)
        )
    return (not include_results or any(include_results)) and not any(exclude_results)
