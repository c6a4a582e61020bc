"""The report's page in a browser: from disk, without a network, with hostile data."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.outcomes.outcome import Outcome, Rate
from batchrec_dagster.personalize.evidence import Evidence, MetricEstimate
from batchrec_dagster.reporting import people
from batchrec_dagster.reporting.changes import build_changes_section
from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.editions import compare_editions
from batchrec_dagster.reporting.facts import Facts, ReportedRun, combine_facts, count_tallies
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.reporting.page import encode_json_for_html, render_page
from batchrec_dagster.reporting.run_records import CheckRecord, TrainingRecord
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster_tests.reporting.test_report import Reader
from batchrec_dagster_tests.support import WCAG

SHOT = "<script>window.shot = 1</script><img src=x onerror='window.shot = 1'>"
HOSTILE = [
    SHOT,
    "</script><script>window.shot = 1</script><!--",
    "\"quotes\" 'and' `ticks` & &amp; {{ 7 * 7 }} ${window.shot = 1}",
    "🎬👩‍👩‍👧‍👦 emoji",
    "مرحبا بالعالم \u202eabc",
    "long " * 1000,
    "l" * 5000,
    '=HYPERLINK("http://example.com","x")',
    "line\nbreak\ttab\u2028separator\u0000\u0007",
    "",
]
WIDTHS = (360, 1280)


def tables() -> RunTables:
    """Twelve users and ten items, with hostile ids and titles."""
    items = [f"item {number}" for number in range(len(HOSTILE))]
    users = [SHOT, 'a"b', "user-1", "user-10", *(f"u{number}" for number in range(8))]
    had = [
        (user, item, 1_500_000_000 + 86_400 * (i + j))
        for i, user in enumerate(users)
        for j, item in enumerate(items)
        if (i + j) % 3
    ]
    lists = [
        (user, rank, item)
        for i, user in enumerate(users)
        for rank, item in enumerate([it for j, it in enumerate(items) if not (i + j) % 3], 1)
    ]
    kinds = [f"{title[:900]}|Drama" if "|" not in title else "Drama" for title in HOSTILE]
    return RunTables(
        interactions=pl.LazyFrame(had, ["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row"),
        recommendations=pl.LazyFrame(lists, ["user_id", "rank", "item_id"], orient="row"),
        users=pl.LazyFrame({"userId": users}),
        titles=pl.DataFrame({"item_id": items, "title": HOSTILE}),
        items=pl.DataFrame({"ITEM_ID": items, "GENRES": kinds}),
        categories=["GENRES"],
        segments=pl.DataFrame(
            {"segment": items, "title": HOSTILE, "rank": [1] * 10, "user_id": users[:10]}
        ),
    )


def run() -> ReportedRun:
    metrics = {
        "normalized_discounted_cumulative_gain_at_25": 0.2,
        "precision_at_10": 0.1,
        "mean_reciprocal_rank_at_25": 0.3,
        "coverage": 0.5,
    }
    short = {"ndcg_at_25": 0.2, "precision_at_10": 0.1, "mrr_at_25": 0.3, "coverage": 0.5}
    made = datetime(2026, 1, 2, tzinfo=UTC)
    return ReportedRun(
        pipeline="shop",
        description=SHOT,
        source=SHOT,
        recipe="aws-user-personalization-v2",
        report_time=made,
        solution_version="arn:aws:personalize:us-east-1:000000000000:solution/shop/1",
        metrics=metrics,
        popularity={name: value / 2 for name, value in metrics.items()},
        trainings=[TrainingRecord(str(n), made, SHOT, short) for n in range(6)],
        checks=[CheckRecord("recommendations", "lists_full", False, SHOT)],
        evidence=[
            Evidence(
                group,
                users,
                MetricEstimate(0.2, 0.1, 0.3),
                MetricEstimate(0.1),
                MetricEstimate(0.1, 0.05, 0.15),
            )
            for group, users in (("all", 200), ("20+", 200))
        ],
        edition=2,
    )


def shown() -> Facts:
    """The facts, with changes since an edition that had none but the items with odd titles."""
    found = tables()
    titled = found.recommendations.join(found.titles.lazy(), on="item_id")  # type: ignore[union-attr]
    old, new = (
        Edition({"edition": number, "settings": {"interactions.filter": SHOT * number, **more}}, "")
        for number, more in ((1, {}), (2, {"interactions.min_rating": 4.0}))
    )
    changes = compare_editions(
        (old, titled.filter(pl.col("rank") % 2 == 1), None), (new, titled, None)
    )
    inputs = [
        RunInputs(
            DataFacts(9, 9, 9, "2026-01-01", "2026-01-02", {SHOT: share, "b": 1 - share}), items
        )
        for share, items in ((0.1, pl.Series(["a"])), (0.9, pl.Series(["b"])))
    ]
    drift = inputs[1].add_drift(inputs[0]).drift
    sections = [build_changes_section(changes, drift), build_outcomes_section(outcomes())]
    return replace(combine_facts(run(), count_tallies(found)), drift=drift, sections=sections)


def outcomes() -> list[Outcome]:
    """What people did after two editions."""
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    return [
        Outcome(
            edition=number,
            since="data",
            start=days[number - 1],
            end=days[number],
            experiment="",
            arm="model",
            list_length=4,
            users=12,
            active_users=8,
            interactions=30,
            new_interactions=20,
            on_list=5,
            hit_rate=Rate(0.5, 0.157, 0.843),
            recall=Rate(0.3, 0.1, 0.6),
            list_share=Rate(0.25, 0.1, 0.5),
            gain=Rate(0.125 * number, -0.1, 0.4),
            popular_hit_rate=0.375,
            popular_recall=0.2,
            popular_list_share=0.15,
        )
        for number in (1, 2)
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "index.html"
    file.write_text(render_page(shown()), encoding="utf-8")
    return file


@pytest.fixture
def opened(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened from disk without a network; a request, message or dialog fails the test."""
    options: dict[str, Any] = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_offline(True)
    tab = context.new_page()
    tab.set_default_timeout(300_000)
    uri = report.as_uri()
    wrong: list[str] = []
    tab.on("request", lambda request: wrong.append(request.url) if request.url != uri else None)
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.goto(uri)
    yield tab
    assert wrong == []
    context.close()


@pytest.mark.parametrize(
    "opened",
    [
        {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        for width, scheme in zip(WIDTHS, ("light", "dark"), strict=True)
    ],
    indirect=True,
)
def test_the_page_is_accessible_and_nothing_overflows(opened: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    opened.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    found = axe.run(opened, options={"runOnly": WCAG})
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 15
    assert _sticking_out(opened) == []


@pytest.mark.parametrize("opened", [{"viewport": {"width": 768, "height": 900}}], indirect=True)
def test_tiles_form_even_rows(opened: Any) -> None:
    in_rows: list[dict[str, int]] = opened.evaluate(
        """() => [...document.querySelectorAll('.tiles')].map((tiles) => {
          const rows = {};
          for (const tile of tiles.children) rows[tile.offsetTop] = (rows[tile.offsetTop] || 0) + 1;
          return rows; })"""
    )
    assert [[*rows.values()] for rows in in_rows] == [[2, 2]] * 5


@pytest.mark.parametrize("opened", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
def test_a_default_does_not_break_on_a_phone(opened: Any) -> None:
    cell = opened.locator("#changed-settings-table tr", has_text="min_rating").locator("td").first
    assert cell.text_content() == "default"
    rows = """(cell) => { const text = document.createRange(); text.selectNodeContents(cell);
      return new Set([...text.getClientRects()].map((row) => row.top)).size; }"""
    assert cell.evaluate(rows) == 1


@pytest.mark.attack
def test_hostile_data_are_text(opened: Any) -> None:
    assert opened.evaluate("window.shot") is None
    assert opened.evaluate("document.scripts.length") == 2
    assert opened.evaluate("document.images.length") == 0
    most = opened.locator("#most-table tbody th").all_text_contents()
    cut = {title if len(title) <= 160 else title[:159] + "…" for title in HOSTILE if title}
    # HTML leaves NUL out.
    assert {*most} - {"item 9"} == {title.replace("\0", "") for title in cut}
    assert opened.locator("header .soft").text_content() == SHOT
    assert SHOT in opened.locator(".verdict li").text_content()
    assert SHOT in opened.locator("#changed-settings-table").text_content()
    assert f"events of type {SHOT}" in opened.locator("#changed-data-table").text_content()

    opened.get_by_label("Find a user").fill("<script>")
    assert opened.locator("#person-name").text_content() == f"User {SHOT}"
    texts = opened.locator("#person-known ~ .sides bdi").all_text_contents()
    assert {text for text in texts if "shot" in text} <= cut
    assert opened.evaluate("document.querySelectorAll('.person script, .person img').length") == 0
    assert opened.evaluate("window.shot") is None


def test_a_user_is_found_with_the_keyboard_alone(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the report"
    opened.get_by_label("Find a user").focus()
    opened.keyboard.type("USER-1")
    status = opened.locator("#user-found")
    assert status.text_content() == "2 users found; user user-1, shown below"
    assert opened.locator("#person-name").text_content() == "User user-1"
    for _ in ("Previous", "Next", "Random user", "Download as CSV", "user-1", "user-10"):
        opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    assert status.text_content() == "2 users found; user user-10, shown below"
    assert opened.locator("#person-name").text_content() == "User user-10"
    payload = json.loads(opened.locator("#people-data").text_content())
    _, known, history, listed = next(who for who in payload["people"] if who[0] == "user-10")
    assert opened.locator("#person-known").text_content() == f"{known} interactions"
    assert opened.locator("#history li").count() == len(history) // 2
    assert opened.locator("#recommended li").count() == len(listed) // 3
    why = opened.locator("#recommended .why").first.text_content()
    assert f"{listed[2]} of {payload['items'][listed[1]][2]} people who liked" in why

    opened.get_by_label("Find a user").fill("nobody")
    assert status.text_content() == "No user id contains nobody"
    assert not opened.locator("#person").is_visible()
    opened.get_by_role("button", name="Random user").click()
    assert opened.locator("#person").is_visible()
    assert (status.text_content() or "").startswith("12 users found; user ")


def test_dark_mode_and_printing(opened: Any) -> None:
    def colour() -> str:
        return str(opened.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = colour()
    dark = opened.locator("#theme")
    dark.click()
    assert colour() != light
    assert (dark.get_attribute("aria-pressed"), dark.text_content()) == ("true", "Dark: on")
    opened.evaluate(
        "addEventListener('beforeprint', () => {"
        " window.unfolded = document.querySelectorAll('details[open]').length })"
    )
    assert opened.pdf().startswith(b"%PDF")
    assert opened.evaluate("window.unfolded") == opened.locator("details").count() == 8
    assert opened.locator("details[open]").count() == 0
    opened.emulate_media(media="print")
    assert colour() == "rgb(255, 255, 255)"
    assert not opened.locator("nav").is_visible()
    assert not dark.is_visible()
    # Names that are buttons on the screen are text on paper, charts stand next to their numbers.
    assert opened.locator("#recommended button").first.is_visible()
    for figure in opened.locator("figure:has(.chart)").all():
        parts = figure.locator(".chart, details").all()
        tops = [part.bounding_box()["y"] for part in parts]
        assert tops[0] == tops[1]


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_javascript_only_the_people_are_missing(opened: Any) -> None:
    assert "needs JavaScript" in opened.locator("noscript").first.inner_text()
    assert not opened.locator("#browser").is_visible()
    assert opened.locator("#quality-table").count() == 1


def test_many_users_are_sampled_evenly_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch, browser: Any
) -> None:
    monkeypatch.setattr(people, "MOST_COUNTED", 6)
    found = combine_facts(run(), count_tallies(tables(), most_people=5))
    everyone = sorted(tables().users.collect().get_column("userId"))
    assert [user for user, *_ in found.people.people] == everyone[::3]
    prose = re.sub("<[^>]*>", "", render_page(found))
    assert "4 of 12 users with a list: a sample" in prose
    assert "a sample of 6 users" in prose
    tab = browser.new_page()
    tab.set_content(render_page(found))
    tab.get_by_label("Find a user").fill("nobody")
    assert "batchrec show" in tab.locator("#user-found").text_content()
    tab.close()


@pytest.mark.parametrize("judgement", ["good", "watch", "bad"])
def test_the_page_opens_with_the_verdict_in_a_word_and_a_shape(
    browser: Any, judgement: str
) -> None:
    lead = {"good": 0.1, "watch": 0.0, "bad": -0.1}[judgement]
    estimate = MetricEstimate(lead, lead - 0.05, lead + 0.05)
    evidence = [Evidence("all", 200, MetricEstimate(0.2), MetricEstimate(0.2 - lead), estimate)]
    found = combine_facts(replace(run(), checks=[], evidence=evidence), count_tallies(tables()))
    assert found.verdict.judgement == judgement
    tab = browser.new_page()
    tab.set_content(render_page(found))
    assert tab.locator("h2").first.text_content() == found.verdict.text.partition(":")[0]
    said = tab.locator(".verdict .lead").text_content().lower()
    assert said == found.verdict.text.partition(": ")[2].lower()
    shape = "e => getComputedStyle(e.querySelector('h2'), '::before').content"
    assert (
        tab.locator(".verdict").evaluate(shape)[1]
        == {"good": "●", "watch": "▲", "bad": "■"}[judgement]
    )
    word = tab.locator(".tile", has_text="NDCG@25").locator(".judgement")
    assert word.text_content() == judgement.capitalize()
    tab.close()


def test_models_of_other_settings_are_not_compared() -> None:
    old, new = run().trainings[:2]
    trainings = [
        replace(old, interactions={"min_rating": 3.5}),
        replace(new, interactions={"min_rating": 4.0}),
    ]
    assert "these cannot be compared" in render_page(
        combine_facts(replace(run(), trainings=trainings), count_tallies(tables()))
    )
    assert "these cannot be compared" not in render_page(
        combine_facts(run(), count_tallies(tables()))
    )


def test_the_latest_models_are_listed_newest_first() -> None:
    trainings = [
        TrainingRecord(
            str(n),
            datetime(2026, 1, n, tzinfo=UTC),
            "aws-similar-items",
            {"ndcg_at_25": n / 10, "precision_at_10": n / 20, "mrr_at_25": n / 30, "coverage": 0.5},
        )
        for n in (1, 2, 3)
    ]
    shown = Reader(
        render_page(combine_facts(replace(run(), trainings=trainings), count_tallies(tables())))
    )
    assert shown.tables["runs-table"][1:] == [
        [f"2026-01-0{n} 00:00 UTC, aws-similar-items", n / 10, n / 20, n / 30, 0.5]
        for n in (3, 2, 1)
    ]


@pytest.mark.parametrize("text", [*HOSTILE, "<!--<script>", "\u2029"])
def test_json_cannot_leave_its_element(text: str) -> None:
    written = str(encode_json_for_html([text]))
    assert json.loads(written) == [text]
    assert not {*"<>&\u2028\u2029\0"} & {*written}


def _sticking_out(tab: Any) -> list[str]:
    """The elements that reach beyond the window's left or right edge, except hidden ones."""
    found: list[str] = tab.evaluate(
        """() => [...document.querySelectorAll('body *:not(.skip, .unseen)')]
          .filter((e) => !e.closest('svg, script, noscript'))
          .filter((e) => { const r = e.getBoundingClientRect();
            return r.width && (r.right > innerWidth + 0.5 || r.left < -0.5
              || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline'); })
          .map((e) => `${e.tagName} ${e.id} ${e.textContent.slice(0, 40)}`)"""
    )
    return found


def pictured() -> RunTables:
    """With pictures and pages, one of each that must not be used."""
    found = tables()
    assert found.titles is not None
    places = range(found.titles.height)
    addresses = [f"https://shop.example/{place}" for place in places]
    return replace(
        found,
        titles=found.titles.with_columns(
            image=pl.Series(["javascript:window.shot = 1", *addresses[1:]]),
            link=pl.Series([None, "javascript:window.shot = 1", *addresses[2:]]),
        ),
    )


@pytest.fixture
def shop(browser: Any, tmp_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page of a shop with pictures, and the addresses that it has asked for."""
    file = tmp_path / "index.html"
    file.write_text(render_page(combine_facts(run(), count_tallies(pictured()))), encoding="utf-8")
    tab = browser.new_page()
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(status=404)

    tab.route("**/*", lambda r: r.continue_() if r.request.url.startswith("file:") else answer(r))
    tab.goto(f"{file.as_uri()}#user=user-10")
    yield tab, asked
    tab.close()


@pytest.mark.attack
def test_pictures_are_asked_for_only_when_the_reader_allows_it(
    shop: tuple[Any, list[str]],
) -> None:
    tab, asked = shop
    assert tab.locator("#person-name").text_content() == "User user-10"
    assert tab.evaluate("document.images.length") == 0
    assert asked == []
    tab.get_by_label("Show pictures").check()
    shown = tab.locator("#person img")
    shown.last.scroll_into_view_if_needed()
    tab.wait_for_timeout(200)
    assert asked
    assert all(address.startswith("https://shop.example/") for address in asked)
    assert shown.count() < tab.locator("#person li").count()  # one is no address
    links = tab.locator("#person a, #item a")
    for place in range(links.count()):
        assert links.nth(place).get_attribute("href").startswith("https://shop.example/")
        assert links.nth(place).get_attribute("rel") == "noopener noreferrer"
    assert tab.evaluate("window.shot") is None


def test_addresses_lead_to_a_user_or_an_item(opened: Any) -> None:
    opened.evaluate("location.hash = '#user=user-10'")
    assert opened.locator("#person-name").text_content() == "User user-10"
    opened.get_by_role("button", name="Next").first.click()
    following = opened.locator("#person-name").text_content()
    assert following != "User user-10"
    opened.get_by_role("button", name="Previous").first.click()
    assert opened.locator("#person-name").text_content() == "User user-10"
    assert opened.evaluate("location.hash") == "#user=user-10"
    opened.evaluate("location.hash = '#item=item 3'")
    opened.locator("#item-known", has_text="item 3").wait_for()
    for wrong in ("#user=nobody", "#item=%", "#user="):
        opened.evaluate(f"location.hash = '{wrong}'")
    assert opened.locator("#item-known").is_visible()


def test_an_item_shows_who_gets_it_and_what_goes_with_it(opened: Any) -> None:
    payload = json.loads(opened.locator("#people-data").text_content())
    opened.get_by_label("Find an item").fill("🎬")
    _, _, users, lists, near, *_ = next(item for item in payload["items"] if item[0] == "item 3")
    place = [item[0] for item in payload["items"]].index("item 3")
    had = tables().interactions.collect().rows()
    audience = {user for user, item, _ in had if item == "item 3"}
    getting = tables().recommendations.filter(pl.col("item_id") == "item 3").collect()
    assert (users, lists) == (len(audience), getting.height)
    assert f"in {lists} lists" in opened.locator("#item-known").text_content()
    ranked = sorted(
        (index // 3 + 1, user)
        for user, _, _, listed in payload["people"]
        for index in range(0, len(listed), 3)
        if listed[index] == place
    )
    texts = opened.locator("#gets li").all_text_contents()
    assert sorted(texts) == sorted(f"{rank}{user}" for rank, user in ranked)
    for other, both in zip(near[::2], near[1::2], strict=True):
        theirs = {user for user, item, _ in had if item == payload["items"][other][0]}
        assert both == len(audience & theirs)
    assert opened.locator("#goes li").count() == len(near) // 2 == 5
    assert f"{near[1]} of {users} people" in opened.locator("#goes .why").first.text_content()
    opened.locator("#gets button").first.click()
    assert opened.locator("#person-name").text_content() == f"User {texts[0][1:]}"


def test_what_is_shown_can_be_downloaded(opened: Any) -> None:
    opened.evaluate("location.hash = '#user=user-10'")
    with opened.expect_download() as download:
        opened.locator("#user-csv").click()
    assert download.value.suggested_filename == "user-user-10.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    listed = tables().recommendations.filter(pl.col("user_id") == "user-10").sort("rank").collect()
    assert [(row["item_id"], row["rank"]) for row in rows] == [
        (item, str(rank)) for _, rank, item in listed.rows()
    ]
    # A spreadsheet would run it.
    assert all(not value.startswith(("=", "+", "@")) for row in rows for value in row.values())
