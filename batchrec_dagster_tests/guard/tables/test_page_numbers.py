"""Tests that each number of the report equals an independent count of the published files.

The first night has no earlier edition. The last night has an earlier edition, other settings, more
people, and outcomes of earlier lists.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import median

import polars as pl
import pytest

from batchrec_dagster_tests.guard.seams.page import Cell, Page, read_page
from batchrec_dagster_tests.guard.strange_shop import (
    ITEM_COUNT,
    NAMED,
    REQUESTED,
    ShopNight,
    StrangeShop,
    find_genre,
    name_item,
    name_title,
    name_user,
)

pytestmark = pytest.mark.slow

TITLES = {name_item(item): name_title(item) for item in range(1, ITEM_COUNT + 1)}
GENRES = {name_item(item): {"Drama", find_genre(item)} for item in range(1, ITEM_COUNT + 1)}
USERS = [*map(name_user, REQUESTED)]
# The report shows this many people, and the people that the declaration names.
MOST_PEOPLE = 200


@cache
def read(page: Path) -> Page:
    return read_page(page.read_text(encoding="utf-8"))


@pytest.fixture(params=["first", "last"])
def night(request: pytest.FixtureRequest, strange_shop: StrangeShop) -> ShopNight:
    return strange_shop.night(request.param)


@pytest.fixture
def page(night: ShopNight) -> Page:
    return read(night.page)


def list_items(table: pl.DataFrame) -> dict[str, list[str]]:
    """Return each user's list, the best item first."""
    groups = table.sort("user_id", "rank").group_by("user_id", maintain_order=True)
    return dict(groups.agg("item_id").iter_rows())


def recount(night: ShopNight) -> dict[str, float]:
    """Return the page's numbers, counted from the published table and the interactions."""
    lists = list_items(night.lists)
    history = Counter(night.interactions["USER_ID"])
    listed = Counter(night.lists["item_id"])
    had = Counter(night.interactions["ITEM_ID"])
    top = math.ceil(ITEM_COUNT / 100)
    most_listed, most_had = (sorted(c.values(), reverse=True)[:top] for c in (listed, had))
    return {
        "interactions": night.interactions.height,
        "users with interactions": len(history),
        "items with interactions": len({*night.interactions["ITEM_ID"]}),
        "users requested": len(USERS),
        "users served": len(lists),
        "items each": max(map(len, lists.values())),
        "users without interactions": sum(not history[user] for user in USERS),
        "users with 1 to 4 interactions": sum(0 < history[user] < 5 for user in USERS),
        "interactions of the median user": median(history[user] for user in USERS),
        "items recommended": len(listed),
        "items in the catalogue": ITEM_COUNT,
        "share of the top 1% in lists": sum(most_listed) / night.lists.height,
        "share of the top 1% in histories": sum(most_had) / night.interactions.height,
    }


@pytest.mark.parametrize(
    "name",
    [
        "interactions",
        "users with interactions",
        "items with interactions",
        "users requested",
        "users served",
        "items each",
        "users without interactions",
        "users with 1 to 4 interactions",
        "interactions of the median user",
        "items recommended",
        "items in the catalogue",
        "share of the top 1% in lists",
        "share of the top 1% in histories",
    ],
)
def test_the_page_counts_what_the_files_have(night: ShopNight, page: Page, name: str) -> None:
    assert page.numbers[name] == pytest.approx(recount(night)[name])


def test_the_model_has_the_metrics_that_its_training_measured(night: ShopNight, page: Page) -> None:
    measured = night.run["metadata"]["solution_version"]
    assert page.numbers["NDCG of the model"] == pytest.approx(measured["ndcg_at_25"], abs=5e-5)
    popular = page.numbers["NDCG of popular items"]
    assert popular == pytest.approx(measured["popularity_ndcg_at_25"], abs=5e-5)
    assert "batchrec's embedded engine, not by Amazon" in html.unescape(night.page.read_text())


def test_the_table_of_quality_has_the_metrics_with_intervals(night: ShopNight, page: Page) -> None:
    measured = night.run["metadata"]["solution_version"]
    rows = {row[0]: row[1] for row in page.tables["quality"]}
    ndcg = rows["NDCG@25"]
    assert isinstance(ndcg, tuple)
    assert ndcg[1] < ndcg[0] < ndcg[2]
    assert rows["Coverage"] == pytest.approx(measured["coverage"], abs=5e-5)


def test_the_model_is_compared_with_popular_items_in_a_sentence(
    night: ShopNight, page: Page
) -> None:
    text = re.sub(r"<[^>]+>", "", night.page.read_text())
    value = r"(-?[\d.]+) \(95% interval (-?[\d.]+) to (-?[\d.]+)[^)]*\)"
    sentence = re.search(rf"NDCG@25 is {value}; the lead of the model is \+{value}", text)
    assert sentence is not None
    popular, low, high, lead, lead_low, lead_high = map(float, sentence.groups())
    assert low < popular < high
    assert lead_low < lead < lead_high
    ndcg = page.numbers["NDCG of the model"]
    assert lead == pytest.approx(ndcg - page.numbers["NDCG of popular items"], abs=6e-3)


def test_users_with_lists_are_counted_with_shares(night: ShopNight, page: Page) -> None:
    lists, history = list_items(night.lists), Counter(night.interactions["USER_ID"])
    longest = max(map(len, lists.values()))
    numbers = {
        "Requested": len(USERS),
        "With a list": len(lists),
        "With a full list": sum(len(items) == longest for items in lists.values()),
        "Without interactions": sum(not history[user] for user in USERS),
        "With 1 to 4 interactions": sum(0 < history[user] < 5 for user in USERS),
    }
    assert page.tables["reach"] == [
        [name, number, pytest.approx(number / len(USERS))] for name, number in numbers.items()
    ]


def test_the_most_recommended_items_are_in_as_many_lists_as_it_says(
    night: ShopNight, page: Page
) -> None:
    listed = Counter(night.lists["item_id"])
    order = sorted(listed, key=lambda item: (-listed[item], item))
    rows = page.tables["most recommended"]
    assert len(rows) >= 5
    # The page's other facts about these people may change.
    assert [row[:2] for row in rows] == [
        [TITLES[item], listed[item]] for item in order[: len(rows)]
    ]


def test_categories_have_the_share_of_lists_and_histories_that_their_items_have(
    night: ShopNight, page: Page
) -> None:
    shares: dict[Cell, list[Cell]] = {row[0]: row[1:] for row in page.tables["categories"]}

    def compute_share(items: pl.Series, genre: str) -> float:
        return sum(genre in GENRES[item] for item in items) / len(items)

    assert shares == {
        genre: [
            pytest.approx(compute_share(night.lists["item_id"], genre)),
            pytest.approx(compute_share(night.interactions["ITEM_ID"], genre)),
        ]
        for genre in {"Drama", find_genre(1), find_genre(2)}
    }


def test_people_have_the_list_that_was_published(night: ShopNight, page: Page) -> None:
    lists = list_items(night.lists)
    assert page.people.keys() <= lists.keys()
    for user, person in page.people.items():
        assert person.listed == tuple(TITLES[item] for item in lists[user])


def test_people_have_their_newest_history(night: ShopNight, page: Page) -> None:
    rows = night.interactions.sort("TIMESTAMP", "ITEM_ID", descending=[True, False])
    checked = 0
    for user, person in page.people.items():
        user_items = rows.filter(pl.col("USER_ID") == user)["ITEM_ID"]
        assert person.history == tuple(TITLES[item] for item in user_items[: len(person.history)])
        assert len(person.history) >= min(len(user_items), 10)
        checked += bool(person.history)
    assert checked > 30


def test_an_items_explanation_is_in_the_history(page: Page, night: ShopNight) -> None:
    histories: dict[str, set[str]] = {}
    for user, item in night.interactions.select("USER_ID", "ITEM_ID").iter_rows():
        histories.setdefault(user, set()).add(TITLES[item])
    explained = 0
    for user, person in page.people.items():
        reasons = {*person.reasons} - {""}
        assert reasons <= histories.get(user, set())
        explained += len(reasons)
    assert explained > 50


def test_an_items_explanation_is_the_item_most_people_have_with_it(
    night: ShopNight, page: Page
) -> None:
    people: dict[str, set[str]] = {}
    items_by_user: dict[str, set[str]] = {}
    for user, item in night.interactions.select("USER_ID", "ITEM_ID").iter_rows():
        people.setdefault(TITLES[item], set()).add(user)
        items_by_user.setdefault(user, set()).add(TITLES[item])

    def score(title: str, other: str) -> float:
        sizes = len(people.get(title, ())) * len(people[other])
        people_with_both = len(people.get(title, set()) & people[other])
        if people_with_both < 2 or people_with_both <= sizes / len(items_by_user):
            return 0.0
        return people_with_both / (people_with_both + 10) * people_with_both / math.sqrt(sizes)

    for user, person in page.people.items():
        for title, reason in zip(person.listed, person.reasons, strict=True):
            scores = {
                other: score(title, other) for other in items_by_user.get(user, set()) - {title}
            }
            best = max(scores.values(), default=0.0)
            assert scores[reason] == pytest.approx(best) if reason else best == 0.0


def test_the_page_shows_a_sample_of_people_and_the_declared_people(
    night: ShopNight, page: Page
) -> None:
    served = night.lists["user_id"].n_unique()
    assert served > MOST_PEOPLE
    assert {name_user(number) for number in NAMED} <= page.people.keys()
    assert MOST_PEOPLE / 2 <= len(page.people) <= MOST_PEOPLE + len(NAMED)


def test_changes_are_counted_from_two_editions(strange_shop: StrangeShop) -> None:
    for name, before_name in (("strict", "first"), ("last", "grown")):
        night, before = strange_shop.night(name), strange_shop.night(before_name)
        numbers = read(night.page).numbers
        lists, lists_before = list_items(night.lists), list_items(before.lists)
        shares = [
            len({*items} & {*lists_before[user]}) / len(items) for user, items in lists.items()
        ]
        same_lists = [user for user in lists if {*lists[user]} == {*lists_before[user]}]
        assert numbers["share of a list that was kept"] == pytest.approx(sum(shares) / len(shares))
        assert numbers["lists compared"] == len(shares)
        assert numbers["lists with the same items"] == len(same_lists)
        assert numbers["people who have a list now"] == len(lists.keys() - lists_before.keys())
        assert numbers["people who had a list"] == len(lists_before.keys() - lists.keys())


def test_items_up_and_down_are_counted_in_both_editions(strange_shop: StrangeShop) -> None:
    night, before = strange_shop.night("grown"), strange_shop.night("strict")
    listed, listed_before = (Counter(shop_night.lists["item_id"]) for shop_night in (night, before))
    order = sorted(
        {*listed, *listed_before}, key=lambda item: (listed_before[item] - listed[item], item)
    )
    up = [item for item in order if listed[item] > listed_before[item]][:10]
    down = [item for item in reversed(order) if listed[item] < listed_before[item]][:10]
    # HTML turns all kinds of line breaks into one kind.
    expected = {
        (" ".join(TITLES[item].split()), listed_before[item], listed[item]) for item in [*up, *down]
    }
    rows = read(night.page).tables["items up and down"]
    assert {(" ".join(str(title).split()), *numbers) for title, *numbers in rows} == expected


def test_the_compared_data_are_the_data_of_the_two_nights(strange_shop: StrangeShop) -> None:
    night, before = strange_shop.night("grown"), strange_shop.night("strict")
    changed = {row[0]: row[1:] for row in read(night.page).tables["data that changed"]}
    frames = (before.interactions, night.interactions)
    assert changed["interactions"] == [frame.height for frame in frames]
    assert changed["users"] == [frame["USER_ID"].n_unique() for frame in frames]
    assert changed["items"] == [frame["ITEM_ID"].n_unique() for frame in frames]


def test_the_settings_that_changed_are_named_with_both_values(strange_shop: StrangeShop) -> None:
    def read_changes(name: str) -> list[list[Cell]]:
        return read(strange_shop.night(name).page).tables.get("settings that changed", [])

    assert read_changes("first") == []
    assert read_changes("strict") == [["interactions.min_rating", "3.5", "4.5"]]
    assert read_changes("grown") == []
    assert read_changes("last") == [["recommendations.num_results", "5", "4"]]
    text = " ".join(strange_shop.night("last").page.read_text().split())
    assert "The settings of the interactions changed between some nights" in text


def test_the_page_says_what_people_did_with_earlier_lists(strange_shop: StrangeShop) -> None:
    night = strange_shop.night("last")
    page = read(night.page)
    newest = night.outcomes.sort("start").row(-1, named=True)
    # Every second returning user chose the first item of the list.
    assert newest["hit_rate"] == 0.5
    assert page.numbers["hit rate"] == pytest.approx(newest["hit_rate"])
    (_, rate, popular_rate, active_users), *_ = page.tables["outcomes"]
    assert active_users == newest["active_users"] == 80
    for shown, name in ((rate, "hit_rate"), (popular_rate, "popular_hit_rate")):
        assert shown == pytest.approx((newest[name], newest[f"{name}_low"], newest[f"{name}_high"]))
