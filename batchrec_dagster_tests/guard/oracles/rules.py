"""The meaning of the lists' rules in plain Python, for one user and one item at a time."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

DAY = 86_400
Row = tuple[str, int, str, float | None, str | None]
Item = dict[str, Any]
# The block `rules` or `exclude_seen` of a pipeline's YAML.
Declared = Mapping[str, Any]

# Conditions as functions, by their text.
ITEM_CONDITIONS: dict[str, Callable[[Item], bool]] = {
    "ITEMS.STOCK > 0": lambda item: item["STOCK"] is not None and item["STOCK"] > 0,
    "ITEMS.STOCK > 9": lambda item: (item["STOCK"] or 0) > 9,
    "ITEMS.AGE_DAYS < 30": lambda item: item["AGE_DAYS"] is not None and item["AGE_DAYS"] < 30,
    'Items.KIND IN ("a", "c")': lambda item: bool({"a", "c"} & set(split(item["KIND"]))),
    'ITEMS.KIND != "b" OR ITEMS.STOCK = 1': lambda item: (
        (item["KIND"] is not None and "b" not in split(item["KIND"])) or item["STOCK"] == 1
    ),
}
USER_CONDITIONS: dict[str, Callable[[Item], bool]] = {
    'USERS.COUNTRY = "AT"': lambda user: user["COUNTRY"] == "AT",
    'Users.COUNTRY NOT IN ("AT")': lambda user: user["COUNTRY"] not in (None, "AT"),
}


def split(text: str | None) -> list[str]:
    """Return the values of a category, and the whole text."""
    return [] if text is None else [text, *text.split("|")]


@dataclass
class Shop:
    """A shop as plain values."""

    items: dict[str, Item]
    users: dict[str, Item]
    interactions: list[tuple[str, str, int, str]]
    """The user, item, time and event of each interaction."""
    popular: list[str]
    blocked: list[str]
    num_results: int
    now: int
    today: date
    candidates: dict[str, list[str]]
    """The model's items for each user. Users without an answer from the model are missing."""
    titled: list[str] | None = None
    """The items with a title; None if lists show no title."""
    counts: Counter[str] = field(default_factory=Counter)

    def read_item(self, item: str) -> Item:
        nothing = dict.fromkeys(("STOCK", "KIND", "BRAND", "PRICE", "AGE_DAYS"))
        return self.items.get(item, nothing)

    def exists(self, item: str) -> bool:
        return item in self.items or any(item == row[1] for row in self.interactions)


def build_lists(rules: Declared, seen: Declared | None, shop: Shop) -> list[Row]:
    """Return the rows of all users' lists, and add the rules' effects to the shop's counts."""
    rows: list[Row] = []
    for user in shop.candidates:
        rows += _build_list(rules, seen, shop, user)
    return rows


def _build_list(rules: Declared, seen: Declared | None, shop: Shop, user: str) -> list[Row]:
    counts = shop.counts
    counts["lists of model"] += 1
    filters = _list_filters(rules, seen, shop, user)
    allowed, emptied_by = [*enumerate(shop.candidates[user])], None
    for name, allows in filters.items():
        remaining = [(place, item) for place, item in allowed if allows(item)]
        counts[f"{name} removed"] += len(allowed) - len(remaining)
        if allowed and not remaining:
            emptied_by = name
        allowed = remaining
    pinned, unmet = _pin(rules, shop, user, filters, [item for _, item in allowed])
    counts["pin added"] += len(pinned)
    counts["pin unmet"] += unmet
    chosen = _Chosen(rules, shop, [*pinned.values()], shop.num_results - len(pinned))
    model = [(place, item) for place, item in allowed if item not in pinned.values()]
    popular = [
        (1000 + place, item)
        for place, item in enumerate(shop.popular)
        if all(allows(item) for allows in filters.values())
    ]
    counts["max_per removed"] += chosen.fill(model)
    counts["short of model"] += len(chosen.places) < chosen.capacity
    chosen.fill(popular)
    entries: list[tuple[str, float | None, str | None]] = []
    for place, item in sorted(chosen.places):
        is_popular = place >= 1000
        score = None if is_popular else 1 / (1 + place)
        entries.append((item, score, "popular" if is_popular else None))
        counts["popular rows"] += is_popular
    for rank in sorted(pinned):
        entries.insert(rank - 1, (pinned[rank], None, "pinned"))
    if not entries:
        counts["empty"] += 1
        counts[f"{emptied_by} emptied"] += 1
    return [(user, rank, *entry) for rank, entry in enumerate(entries, 1)]


def _list_filters(
    rules: Declared, seen: Declared | None, shop: Shop, user: str
) -> dict[str, Callable[[str], bool]]:
    filters: dict[str, Callable[[str], bool]] = {}
    if seen is not None:
        had = {
            item
            for who, item, time, event in shop.interactions
            if who == user
            and (seen.get("events") is None or event.lower() in map(str.lower, seen["events"]))
            and (seen.get("days") is None or time > shop.now - seen["days"] * DAY)
        }
        exempt = ITEM_CONDITIONS.get(seen.get("except") or "", _is_never)
        filters["exclude_seen"] = lambda item: item not in had or exempt(shop.read_item(item))
    if "block" in rules:
        filters["block"] = lambda item: item not in shop.blocked
    if "only" in rules:
        only = ITEM_CONDITIONS[rules["only"]]
        filters["only"] = lambda item: only(shop.read_item(item))
    titled = shop.titled
    if titled is not None:
        filters["title"] = lambda item: item in titled
    if "price" in rules:
        settings = rules["price"]
        bought = {
            item
            for who, item, _, event in shop.interactions
            if who == user and ("events" not in settings or event in settings["events"])
        }
        prices = [shop.read_item(item)["PRICE"] for item in bought]
        median = statistics.median([price for price in prices if price is not None] or [-1])

        def is_near(item: str) -> bool:
            price, (low, high) = shop.read_item(item)["PRICE"], settings["within"]
            return median < 0 or (price is not None and low * median <= price <= high * median)

        filters["price"] = is_near
    return filters


def _is_never(item: Item) -> bool:
    return False


def _pin(
    rules: Declared,
    shop: Shop,
    user: str,
    filters: dict[str, Callable[[str], bool]],
    candidates: Sequence[str],
) -> tuple[dict[int, str], bool]:
    """Return the pinned items by rank, and whether a pin with a condition finds no candidate."""
    pinned: dict[int, str] = {}
    unmet = False
    for pin in rules.get("pin", ()):
        rank, item = pin.get("rank", 1), pin.get("item")
        is_over = pin.get("until", "9999") < shop.today.isoformat()
        values = shop.users.get(user, {"COUNTRY": None})
        is_for_user = "for" not in pin or USER_CONDITIONS[pin["for"]](values)
        if is_over or not is_for_user or rank in pinned:
            continue
        if "only" in pin:
            meets = ITEM_CONDITIONS[pin["only"]]
            matching = [item for item in candidates if meets(shop.read_item(item))]
            remaining = [item for item in matching if item not in pinned.values()]
            if remaining:
                pinned[rank] = remaining[0]
            unmet |= not remaining
        elif item is not None and shop.exists(item) and item not in pinned.values():
            obeyed = [allows for name, allows in filters.items() if name != "price"]
            if all(allows(item) for allows in obeyed):
                pinned[rank] = item
    return pinned, unmet


class _Chosen:
    """A list that is being filled."""

    def __init__(self, rules: Declared, shop: Shop, pinned: Sequence[str], capacity: int) -> None:
        self.rules, self.shop, self.pinned, self.capacity = rules, shop, pinned, capacity
        self.places: list[tuple[int, str]] = []
        self.on_list: Counter[tuple[str, str]] = Counter()
        for item in pinned:
            self._count(item)

    def fill(self, candidates: Sequence[tuple[int, str]]) -> int:
        """Fill the list from these candidates, and return the number that max_per refused."""
        refused = 0
        for place, item in candidates:
            if len(self.places) == self.capacity:
                break
            if item in self.pinned or any(item == other for _, other in self.places):
                continue
            if not self._has_room(item):
                refused += 1
                continue
            self.places.append((place, item))
            self._count(item)
        return refused

    def _has_room(self, item: str) -> bool:
        return all(
            self.on_list[column, value] < limit
            for column, limit in self.rules.get("max_per", {}).items()
            for value in set((self.shop.read_item(item)[column] or "").split("|")) - {""}
        )

    def _count(self, item: str) -> None:
        for column in self.rules.get("max_per", {}):
            for value in set((self.shop.read_item(item)[column] or "").split("|")) - {""}:
                self.on_list[column, value] += 1
