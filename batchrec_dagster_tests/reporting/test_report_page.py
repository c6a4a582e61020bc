"""The report's page in a browser: from disk, without a network, with hostile data."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import TypeAdapter

from batchrec_dagster.personalize.measurements import Evidence, MetricEstimate
from batchrec_dagster.reporting.changes import build_changes_section
from batchrec_dagster.reporting.checks import build_checks_section
from batchrec_dagster.reporting.data_section import build_data_section
from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.editions import compare_editions
from batchrec_dagster.reporting.facts import (
    Facts,
    ReportedRun,
    Tallies,
    combine_facts,
    count_tallies,
)
from batchrec_dagster.reporting.night_tables import build_nights_section
from batchrec_dagster.reporting.nights import ListedNight
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.reporting.page import encode_json_for_html, render_page
from batchrec_dagster.reporting.run_records import CheckRecord
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.steps import item_pairs
from batchrec_dagster.steps.intervals import Rate
from batchrec_dagster.steps.outcomes import Outcome
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.seams.editions import make_edition

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


def build_tables() -> RunTables:
    """Twelve users and ten items, with hostile ids and titles."""
    items = [f"item {number}" for number in range(len(HOSTILE))]
    users = [SHOT, 'a"b', "user-1", "user-10", *(f"u{number}" for number in range(8))]
    had = [
        (user, item, 1_500_000_000 + 86_400 * (i + j))
        for i, user in enumerate(users)
        for j, item in enumerate(items)
        if (i + j) % 3
    ]
    # Others have something else alone: so it is more than chance that the users share their items.
    had += [(f"x{number}", "aside", 1_500_000_000) for number in range(12)]
    lists = [
        (user, rank, item)
        for i, user in enumerate(users)
        for rank, item in enumerate(
            [candidate for j, candidate in enumerate(items) if not (i + j) % 3], 1
        )
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
        similar_items=build_similar_items(items),
    )


def build_similar_items(items: list[str]) -> pl.LazyFrame:
    """Lists of similar items whose second is not in the report. The last item has none."""
    rows = [
        (item, rank, similar_item)
        for place, item in enumerate(items[:-1])
        for rank, similar_item in enumerate(
            [
                items[place - 1],
                SHOT,
                *(items[(place + step) % len(items)] for step in range(1, 10)),
            ],
            1,
        )
    ]
    return pl.LazyFrame(rows, ["item_id", "rank", "similar_item_id"], orient="row")


def run() -> ReportedRun:
    metrics = {
        "normalized_discounted_cumulative_gain_at_25": 0.2,
        "precision_at_10": 0.1,
        "mean_reciprocal_rank_at_25": 0.3,
        "coverage": 0.5,
    }
    creation_time = datetime(2026, 1, 2, tzinfo=UTC)
    return ReportedRun(
        pipeline="shop",
        description=SHOT,
        source=SHOT,
        recipe="aws-user-personalization-v2",
        report_time=creation_time,
        solution_version="arn:aws:personalize:us-east-1:000000000000:solution/shop/1",
        metrics=metrics,
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
        similar_items=f"by the recipe {SHOT}",
    )


def build_facts() -> Facts:
    """The facts, with changes since an edition that had none but the items with odd titles."""
    run_tables = build_tables()
    frame_with_titles = run_tables.recommendations.join(run_tables.titles.lazy(), on="item_id")  # type: ignore[union-attr]
    old, new = (
        make_edition(
            {
                "number": number,
                "settings": {"interactions.filter": SHOT * number, **more_settings},
            }
        )
        for number, more_settings in ((1, {}), (2, {"interactions.min_rating": 4.0}))
    )
    changes = compare_editions(
        (old, frame_with_titles.filter(pl.col("rank") % 2 == 1), None),
        (new, frame_with_titles, None),
    )
    inputs = [
        RunInputs(
            DataFacts(9, 9, 9, "2026-01-01", "2026-01-02", {SHOT: share, "b": 1 - share}), items
        )
        for share, items in ((0.1, pl.Series(["a"])), (0.9, pl.Series(["b"])))
    ]
    drift = inputs[1].add_drift(inputs[0]).drift
    tallies = count_tallies(run_tables)
    sections = [
        build_checks_section(build_checks(), [SHOT]),
        build_data_section(build_preparation(), SHOT),
        build_nights_section(build_nights()),
        build_changes_section(changes, drift),
        build_outcomes_section(build_outcomes()),
    ]
    return replace(combine_facts(run(), tallies), drift=drift, sections=sections)


def build_preparation() -> dict[str, Any]:
    """What the asset of the interactions says of the rows that it read."""
    return {"rows_read": 100, "rows_left_out": 20, "left_out_by_reason": {SHOT: 19, "b": 1}}


def build_checks() -> list[CheckRecord]:
    """A check that passed, one that warns and one that failed, with the longest real name."""
    time = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    return [
        CheckRecord("recommendations", "every_segment_answered", True, "0 of 9", time=time),
        CheckRecord("interactions", "success_known", False, SHOT, SHOT, time=time),
        CheckRecord("recommendations", "no_seen_items", False, "l" * 500, "None.", True),
    ]


def build_nights() -> list[ListedNight]:
    """More nights than the chart has room for labels, with everything that a row can have."""
    start = datetime(2026, 1, 2, tzinfo=UTC)
    nights = [
        ListedNight(
            time=start + timedelta(days=number),
            ended="published",
            status="published",
            run=f"run {number}",
            edition=number,
            is_live=number == 30,
            ndcg=0.2,
            ndcg_low=0.1,
            ndcg_high=0.3,
            popular_ndcg=0.1,
            users=1_234_567,
            cost_usd=1234.5,
            seconds=10_000,
        )
        for number in range(1, 31)
    ]
    refused = ListedNight(
        time=start,
        ended="refused",
        status="refused",
        run="run",
        checks=(SHOT,),
        steps=("recommendations",),
        ndcg=0.1,
    )
    return [nights[0].model_copy(update={"edition": 0, "ndcg": None}), refused, *nights]


def build_outcomes() -> list[Outcome]:
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
            hit_rate=Rate(value=0.5, low=0.157, high=0.843),
            recall=Rate(value=0.3, low=0.1, high=0.6),
            list_share=Rate(value=0.25, low=0.1, high=0.5),
            gain=Rate(value=0.125 * number, low=-0.1, high=0.4),
            popular_hit_rate=Rate(value=0.375, low=0.1, high=0.7),
            popular_recall=0.2,
            popular_list_share=0.15,
        )
        for number in (1, 2)
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "index.html"
    file.write_text(render_page(build_facts()), encoding="utf-8")
    return file


@pytest.fixture
def opened_report(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
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
    "opened_report",
    [{"viewport": {"width": width, "height": 900}} for width in WIDTHS],
    indirect=True,
)
def test_the_navigation_stays_in_view_and_marks_the_section(opened_report: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    bar = opened_report.locator("#bar")
    marked = bar.locator("[aria-current]")
    expect(marked).to_have_text("Summary")
    opened_report.evaluate("document.getElementById('catalogue').scrollIntoView()")
    expect(marked).to_have_text("Catalogue")
    bar_box = bar.bounding_box()
    assert bar_box["y"] == 0
    heading = opened_report.locator("#catalogue-heading").bounding_box()
    is_beside = bar_box["width"] < opened_report.viewport_size["width"]
    assert heading["y"] >= (0 if is_beside else bar_box["height"])
    # The last section is too short to reach the top of the window.
    bar.get_by_role("link", name="About this report").click()
    expect(marked).to_have_text("About this report")
    expect(marked).to_be_in_viewport()
    assert opened_report.locator("#about-heading").is_visible()


def test_a_link_opens_what_is_folded(opened_report: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    table = opened_report.locator("#category1-table")
    assert not table.is_visible()
    opened_report.evaluate("location.hash = '#category1-table'")
    expect(table).to_be_in_viewport()
    assert not opened_report.locator("#metrics dl").first.is_visible()


def test_a_long_list_shows_eight_rows_until_all_are_asked_for(
    browser: Any, first_run: FirstRun
) -> None:
    tab = browser.new_page()
    tab.goto((first_run.storage / "shop/curated/report/index.html").as_uri())
    rows = tab.locator("#recommended li")
    assert [row.is_visible() for row in rows.all()] == [True] * 8 + [False] * 17
    tab.locator("#recommended + button", has_text="Show all 25").click()
    assert rows.last.is_visible()
    # The next user's list is unfolded too.
    tab.locator("#user-next").click()
    assert rows.last.is_visible()
    tab.locator("#recommended + button", has_text="Show the first 8").click()
    assert not rows.last.is_visible()
    tab.close()


def test_a_user_is_found_with_the_keyboard_alone(opened_report: Any) -> None:
    opened_report.keyboard.press("Tab")
    assert opened_report.evaluate("document.activeElement.textContent") == "Skip to the report"
    opened_report.get_by_label("Find a user").focus()
    opened_report.keyboard.type("USER-1")
    status = opened_report.locator("#user-found")
    assert status.text_content() == "2 users found, best match first; user user-1, shown below"
    assert opened_report.locator("#person-name").text_content() == "User user-1"
    for _ in ("Previous", "Next", "Random user", "Download as CSV", "user-1", "user-10"):
        opened_report.keyboard.press("Tab")
    opened_report.keyboard.press("Enter")
    assert status.text_content() == "2 users found, best match first; user user-10, shown below"
    assert opened_report.locator("#person-name").text_content() == "User user-10"
    payload = json.loads(opened_report.locator("#people-data").text_content())
    _, history_length, history, items_listed = next(
        person for person in payload["people"] if person[0] == "user-10"
    )
    assert opened_report.locator("#person-known").text_content() == f"{history_length} interactions"
    assert opened_report.locator("#history li").count() == len(history) // 2
    assert opened_report.locator("#recommended li").count() == len(items_listed) // 3
    explanation = opened_report.locator("#recommended .why").first.text_content()
    assert (
        f"{items_listed[2]} of {payload['items'][items_listed[1]][2]} people who liked"
        in explanation
    )

    opened_report.get_by_label("Find a user").fill("nobody")
    assert status.text_content() == "No user id contains nobody"
    assert not opened_report.locator("#person").is_visible()
    opened_report.get_by_role("button", name="Random user").click()
    assert opened_report.locator("#person").is_visible()
    assert (status.text_content() or "").startswith("12 users found, in the order of ids; user ")


def test_dark_mode_and_printing(opened_report: Any) -> None:
    def read_colour() -> str:
        return str(opened_report.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = read_colour()
    dark = opened_report.locator("#theme")
    dark.click()
    assert read_colour() != light
    assert (dark.get_attribute("aria-pressed"), dark.text_content()) == ("true", "Dark: on")
    opened_report.evaluate(
        "addEventListener('beforeprint', () => {"
        " window.unfolded = document.querySelectorAll('details[open]').length })"
    )
    assert opened_report.pdf().startswith(b"%PDF")
    folds = opened_report.locator("details").count()
    assert opened_report.evaluate("window.unfolded") == folds > 0
    assert opened_report.locator("details[open]").count() == 0
    opened_report.emulate_media(media="print")
    assert read_colour() == "rgb(255, 255, 255)"
    assert not opened_report.locator("nav").is_visible()
    assert not dark.is_visible()
    # Paper shows nobody who happens to be looked up.
    text = opened_report.evaluate("document.body.innerText")
    assert not [user for user in ("user-1", "user-10", 'a"b') if user in text]
    assert "can be looked up on the page itself" in text
    # Charts are next to numbers.
    for figure in opened_report.locator("figure:has(.drawing)").all():
        parts = figure.locator("> .drawing, > details, > .numbers").all()
        tops = [part.bounding_box()["y"] for part in parts]
        assert tops[0] == tops[1]


def test_many_users_are_sampled_evenly_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch, browser: Any
) -> None:
    monkeypatch.setattr(item_pairs, "MOST_COUNTED", 6)
    facts = combine_facts(run(), count_tallies(build_tables(), most_people=5))
    everyone = sorted(build_tables().users.collect().get_column("userId"))
    assert [user for user, *_ in facts.people.people] == everyone[::3]
    prose = re.sub("<[^>]*>", "", render_page(facts))
    assert "4 of 12 users with a list: a sample, evenly spaced by id, and those whom" in prose
    assert "a sample of 6 users" in prose
    tab = browser.new_page()
    tab.set_content(render_page(facts))
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
    facts = combine_facts(
        replace(run(), checks=[], evidence=evidence), count_tallies(build_tables())
    )
    assert facts.verdict.judgement == judgement
    tab = browser.new_page()
    tab.set_content(render_page(facts))
    assert tab.locator("h2").first.text_content() == facts.verdict.text.partition(":")[0]
    lead_text = tab.locator(".verdict .lead").text_content().lower()
    assert lead_text == facts.verdict.text.partition(": ")[2].lower()
    shape = "e => getComputedStyle(e.querySelector('h2'), '::before').content"
    assert (
        tab.locator(".verdict").evaluate(shape)[1]
        == {"good": "●", "watch": "▲", "bad": "■"}[judgement]
    )
    word = tab.locator(".tile", has_text="NDCG@25").locator(".judgement")
    assert word.text_content() == judgement.capitalize()
    tab.close()


@pytest.mark.parametrize("text", [*HOSTILE, "<!--<script>", "\u2029"])
def test_json_cannot_leave_its_element(text: str) -> None:
    json_text = str(encode_json_for_html([text]))
    assert json.loads(json_text) == [text]
    assert not {*"<>&\u2028\u2029\0"} & {*json_text}


def test_addresses_lead_to_a_user_or_an_item(opened_report: Any) -> None:
    opened_report.evaluate("location.hash = '#user=user-10'")
    assert opened_report.locator("#person-name").text_content() == "User user-10"
    opened_report.get_by_role("button", name="Next").first.click()
    following = opened_report.locator("#person-name").text_content()
    assert following != "User user-10"
    opened_report.get_by_role("button", name="Previous").first.click()
    assert opened_report.locator("#person-name").text_content() == "User user-10"
    assert opened_report.evaluate("location.hash") == "#user=user-10"
    opened_report.evaluate("location.hash = '#item=item 3'")
    opened_report.locator("#item-known", has_text="item 3").wait_for()
    for wrong in ("#user=nobody", "#item=%", "#user="):
        opened_report.evaluate(f"location.hash = '{wrong}'")
    assert opened_report.locator("#item-known").is_visible()


def test_an_item_shows_who_gets_it_and_what_goes_with_it(opened_report: Any) -> None:
    payload = json.loads(opened_report.locator("#people-data").text_content())
    opened_report.get_by_label("Find an item").fill("🎬")
    _, _, users, lists, near, *_ = next(item for item in payload["items"] if item[0] == "item 3")
    place = [item[0] for item in payload["items"]].index("item 3")
    had = build_tables().interactions.collect().rows()
    audience = {user for user, item, _ in had if item == "item 3"}
    getting = build_tables().recommendations.filter(pl.col("item_id") == "item 3").collect()
    assert (users, lists) == (len(audience), getting.height)
    assert f"in {lists} lists" in opened_report.locator("#item-known").text_content()
    users_by_rank: dict[int, list[str]] = {}
    for user, _, _, flat_list in payload["people"]:
        for index in range(0, len(flat_list), 3):
            if flat_list[index] == place:
                users_by_rank.setdefault(index // 3 + 1, []).append(user)
    rows = opened_report.locator("#gets li").all()
    assert {
        row.locator(".mark").text_content(): row.locator("button").all_text_contents()
        for row in rows
    } == {f"rank {rank}": users for rank, users in users_by_rank.items()}
    for other, shared_users in zip(near[::2], near[1::2], strict=True):
        item_users = {user for user, item, _ in had if item == payload["items"][other][0]}
        assert shared_users == len(audience & item_users)
    assert opened_report.locator("#goes li").count() == len(near) // 2 == 5
    assert (
        f"{near[1]} of {users} people" in opened_report.locator("#goes .why").first.text_content()
    )
    similar = opened_report.locator("#similar li").all_text_contents()
    # Item 2 is the first of the published list. The second one of it is not on the page.
    assert similar[0] == f"1{HOSTILE[2]}"
    assert [text[0] for text in similar[1:8]] == [*"3456789"]
    assert SHOT in opened_report.locator("#similar-title ~ p").text_content()
    opened_report.locator("#gets button").first.click()
    assert (
        opened_report.locator("#person-name").text_content()
        == f"User {users_by_rank[min(users_by_rank)][0]}"
    )


def test_an_item_has_the_beginning_of_its_published_list(monkeypatch: pytest.MonkeyPatch) -> None:
    people = count_tallies(build_tables()).people
    places = {item[0]: place for place, item in enumerate(people.items)}
    assert people.similar_items is not None
    similar = people.similar_items[places["item 0"]]
    expected = ["item 9", SHOT, *(f"item {number}" for number in range(1, 9))]
    assert similar == [places.get(item, -1) for item in expected]
    assert people.similar_items[places["item 9"]] == []

    monkeypatch.setattr("batchrec_dagster.reporting.people.MOST_SIMILAR_LISTS", 3)
    in_most_lists = sorted(range(len(places)), key=lambda place: -people.items[place][3])[:3]
    few = count_tallies(build_tables()).people.similar_items
    assert few == {place: people.similar_items[place] for place in sorted(in_most_lists)}


def test_without_similar_items_the_page_has_the_same_data_as_before() -> None:
    tallies = count_tallies(build_tables())
    without = count_tallies(replace(build_tables(), similar_items=None))
    assert without.people == replace(tallies.people, similar_items=None)
    data = encode_json_for_html(asdict(without.people))
    page = render_page(combine_facts(replace(run(), similar_items=""), without))
    assert f'id="people-data">{data}</script>' in page
    assert 'id="similar"' not in page
    assert 'id="similar"' in render_page(combine_facts(run(), tallies))
    # The next report of the same tables reads the tallies that this one stored.
    stored = TypeAdapter(Tallies)
    assert stored.validate_json(stored.dump_json(tallies)).people == tallies.people


def test_what_is_shown_can_be_downloaded(opened_report: Any) -> None:
    opened_report.evaluate("location.hash = '#user=user-10'")
    with opened_report.expect_download() as download:
        opened_report.locator("#user-csv").click()
    assert download.value.suggested_filename == "user-user-10.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    list_rows = (
        build_tables().recommendations.filter(pl.col("user_id") == "user-10").sort("rank").collect()
    )
    assert [(row["item_id"], row["rank"]) for row in rows] == [
        (item, str(rank)) for _, rank, item in list_rows.rows()
    ]
    # A spreadsheet would run it.
    assert all(not value.startswith(("=", "+", "@")) for row in rows for value in row.values())
