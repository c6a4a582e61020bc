"""Tests of the report in a browser: accessible, right about the night, and loading nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import WCAG
from batchrec_dagster_tests.guard.seams.page import look_up, read_page
from batchrec_dagster_tests.guard.servers.pages import PATIENCE, open_offline
from batchrec_dagster_tests.guard.strange_shop import (
    ITEM_COUNT,
    NAMED,
    PUBLISHED,
    StrangeShop,
    name_item,
    name_title,
    name_user,
)

pytestmark = pytest.mark.slow

TITLES = {name_item(item): name_title(item) for item in range(1, ITEM_COUNT + 1)}


@pytest.fixture
def page(strange_shop: StrangeShop) -> Path:
    """Return the file of the last report."""
    return strange_shop.night("last").page


@pytest.fixture
def restored_page(strange_shop: StrangeShop) -> Path:
    """Return the file of the report after a rollback, which is the project's current report."""
    return strange_shop.night("restored").page


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    with open_offline(browser, page) as tab:
        yield tab


@pytest.mark.attack
def test_no_name_of_the_shop_runs_or_is_fetched(tab: Any, page: Path) -> None:
    # There is a person for each text of the stranger, with an id that ends in a number.
    users = {user.rpartition(" ")[0]: user for user in read_page(page.read_text()).people}
    addresses: set[str] = set()
    for user in users.values():
        assert look_up(tab, user) is not None
        assert tab.evaluate("document.images.length") == 0
        addresses |= {*tab.evaluate("[...document.querySelectorAll('a[href]')].map((a) => a.href)")}
    assert tab.evaluate("window.shot") is None
    # Links lead only to pages of items, and only by https.
    outside = {address for address in addresses if not address.startswith(page.as_uri())}
    assert len(outside) > 10
    assert all(re.fullmatch(r"https://shop\.invalid/\d+", address) for address in outside)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_nothing_bars_anyone_from_the_report(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    viewport = {"width": width, "height": 800}
    with open_offline(browser, page, viewport=viewport, color_scheme=scheme) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        violations = axe.run(tab, options={"runOnly": WCAG})
        assert violations.violations_count == 0, violations.generate_report()
        assert len(violations.response["passes"]) > 10
        assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_light_dark_and_paper_differ(browser: Any, page: Path) -> None:
    def read_colour(tab: Any) -> str:
        return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))

    with open_offline(browser, page, color_scheme="dark") as tab:
        dark = read_colour(tab)
        tab.emulate_media(media="print")
        assert read_colour(tab) == "rgb(255, 255, 255)"
    with open_offline(browser, page, color_scheme="light") as tab:
        assert read_colour(tab) != dark


def test_the_verdict_is_seen_first(tab: Any, page: Path) -> None:
    verdict = read_page(page.read_text()).verdict
    heading = tab.locator("h2").first
    assert verdict.startswith(heading.text_content())
    assert heading.bounding_box()["y"] < 450


def simplify(text: str) -> str:
    """Return the text without the differences between a heading, a sentence and a wrapped line."""
    return " ".join(re.findall(r"[\w@.]+", text.lower()))


def test_page_terminal_and_dagster_say_the_same_verdict(
    strange_shop: StrangeShop,
    monkeypatch: pytest.MonkeyPatch,
    page: Path,
    restored_page: Path,
) -> None:
    opening, restored = (
        simplify(read_page(file.read_text()).verdict)[:100] for file in (page, restored_page)
    )
    assert any(opening in simplify(text) for _, text in strange_shop.shown_in_dagster)
    monkeypatch.chdir(strange_shop.project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(strange_shop.project.root / ".batchrec"))
    shown = CliRunner().invoke(main, ["show", "--pipeline", "shop"])
    assert shown.exit_code == 0, shown.output
    assert restored in simplify(shown.output)


def test_each_night_has_a_row_that_says_how_it_ended(restored_page: Path) -> None:
    nights = read_page(restored_page.read_text()).tables["nights"]
    assert [
        (edition, re.split(r"[;:,] ", str(status))[0]) for _, edition, status, *_ in nights
    ] == [
        ("3", "restored"),
        ("4", "rolled back"),
        ("", "failed at raw_ratings"),
        ("", "refused by quality_gate"),
        ("3", "published"),
        ("2", "published"),
        ("1", "published"),
    ]
    assert ["live" in str(status) for _, _, status, *_ in nights] == [True, *[False] * 6]


def test_a_refused_night_shows_the_metric_that_was_refused(restored_page: Path) -> None:
    nights = read_page(restored_page.read_text()).tables["nights"]
    refused, published = nights[3:5]
    for night in (refused, published):
        assert isinstance(night[3], float | tuple)
    assert refused[3] != published[3]


def test_the_list_of_nights_in_a_terminal_is_that_of_the_page(
    strange_shop: StrangeShop, monkeypatch: pytest.MonkeyPatch, restored_page: Path
) -> None:
    monkeypatch.chdir(strange_shop.project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(strange_shop.project.root / ".batchrec"))
    listed = CliRunner().invoke(main, ["list", "shop", "--editions"])
    assert listed.exit_code == 0, listed.output
    words = r"restored|rolled back(?!, live)|published|refused by \w+|failed at \w+"
    nights = read_page(restored_page.read_text()).tables["nights"]
    statuses = [re.findall(words, str(status))[0] for _, _, status, *_ in nights]
    assert re.findall(rf"(?<!: \d )(?:{words})", listed.output) == statuses


def test_a_night_that_publishes_nothing_is_told_on_the_page_of_the_lists_that_people_have(
    strange_shop: StrangeShop,
) -> None:
    published = strange_shop.night("grown")
    page = read_page(published.page.read_text())
    assert "Last night was" not in page.strip
    for name, reason in (
        ("refused", r"Last night was refused by quality_gate: .*gate\.min_ndcg_at_25"),
        ("failed", r"Last night was failed at raw_ratings: .*there is no such file"),
    ):
        night = strange_shop.night(name)
        shown = read_page(night.page.read_text())
        assert night.lists.equals(published.lists)
        assert re.search(reason, shown.strip), shown.strip
        # The lists, their numbers and the people are the published ones.
        assert (shown.verdict, shown.numbers, shown.people) == (
            page.verdict,
            page.numbers,
            page.people,
        )
        other_tables = page.tables.keys() - {"nights"}
        assert [shown.tables[other] for other in other_tables] == [
            page.tables[other] for other in other_tables
        ]
        assert len(shown.tables["nights"]) > len(page.tables["nights"])
    pages = {strange_shop.night(name).page.read_bytes() for name in PUBLISHED}
    assert len(pages) == len(PUBLISHED)


def test_after_a_rollback_the_page_is_about_the_lists_that_people_have(
    strange_shop: StrangeShop, restored_page: Path
) -> None:
    night, page = strange_shop.night("restored"), read_page(restored_page.read_text())
    assert night.lists.equals(strange_shop.night("grown").lists)
    assert page.numbers["items each"] == night.lists["rank"].max()
    for user, person in page.people.items():
        user_list = night.lists.filter(night.lists["user_id"] == user).sort("rank")
        assert list(person.listed) == [TITLES[item] for item in user_list["item_id"]]


def test_every_check_is_named_with_what_it_found(strange_shop: StrangeShop, page: Path) -> None:
    tables = read_page(page.read_text()).tables
    rows = [*tables.get("failed checks", []), *tables.get("passed checks", [])]
    headings = [next(name for name in re.findall(r"\w+", str(row[0]))) for row in rows]
    for name, is_passed in strange_shop.night("last").run["checks"]:
        row = next(
            row for row, heading in zip(rows, headings, strict=True) if heading.startswith(name)
        )
        assert (row[1] == "Passed") == is_passed, name
        assert re.search(r"\d", str(row[-1])), name
    assert len(rows) == len(strange_shop.night("last").run["checks"])


@pytest.mark.parametrize("number", [*NAMED, 30, 31])
def test_a_person_is_looked_up_with_history_and_list(
    strange_shop: StrangeShop, tab: Any, page: Path, number: int
) -> None:
    night, people = strange_shop.night("last"), read_page(page.read_text()).people
    user = min(people, key=lambda user: (user != name_user(number), user))
    person = look_up(tab, user)
    assert person is not None
    assert user.replace("\0", "") in person.name
    user_list = night.lists.filter(night.lists["user_id"] == user).sort("rank")
    assert list(person.listed) == [TITLES[item] for item in user_list["item_id"]]
    rows = night.interactions.filter(night.interactions["USER_ID"] == user)
    newest = rows.sort("TIMESTAMP", "ITEM_ID", descending=[True, False])["ITEM_ID"]
    expected = [TITLES[item] for item in newest]
    assert list(person.history) == expected[: len(person.history)]
    assert bool(person.history) == bool(expected)


def test_a_search_for_an_absent_person_says_so(tab: Any) -> None:
    assert look_up(tab, "nobody of that name") is None
    assert "nobody of that name" in tab.locator("[role=status]").first.text_content()


def test_a_person_is_found_with_the_keyboard_alone(tab: Any, page: Path) -> None:
    user = next(user for user in read_page(page.read_text()).people if user.isprintable())
    tab.get_by_label("Find a user").focus()
    tab.keyboard.type(user)
    tab.get_by_text(user).last.wait_for()
    assert look_up(tab, user) == look_up(tab, f" {user} ")


def test_without_scripts_the_page_says_all_but_who_gets_what(browser: Any, page: Path) -> None:
    html = read_page(page.read_text())
    with open_offline(browser, page, java_script_enabled=False) as tab:
        text = " ".join(tab.locator("body").inner_text().split())
        assert html.verdict[:60] in text
        assert f"{html.numbers['interactions']:,.0f}" in text
        assert "refused by quality_gate" in text


@pytest.mark.attack
def test_pictures_are_asked_for_only_when_the_reader_allows_it(browser: Any, page: Path) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    requests: list[str] = []

    def answer(route: Any) -> None:
        requests.append(route.request.url)
        route.fulfill(status=404)

    tab.route("**/*", lambda r: r.continue_() if r.request.url.startswith("file:") else answer(r))
    tab.goto(page.as_uri())
    user = next(iter(read_page(page.read_text()).people))
    assert look_up(tab, user) is not None
    assert requests == []
    with tab.expect_request(re.compile("^https:")):
        tab.get_by_label("Show pictures").check()
        tab.locator("img").last.scroll_into_view_if_needed()
    assert all(re.fullmatch(r"https://pictures\.invalid/\d+\.png", url) for url in requests)
    assert tab.evaluate("window.shot") is None
    tab.close()
