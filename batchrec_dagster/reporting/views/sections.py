"""The sections of the page below the people, as blocks."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.editions.edition import CategoryShare
from batchrec_dagster.reporting.insight.changes import Change, Changes, ItemChange
from batchrec_dagster.reporting.insight.nights import (
    ENDED_BADLY,
    ListedNight,
    describe_changed_settings,
    describe_success,
)
from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.reporting.insight.outcomes import describe_outcome
from batchrec_dagster.reporting.insight.page import Page
from batchrec_dagster.reporting.insight.titles import shorten_title
from batchrec_dagster.reporting.views.blocks import (
    Bar,
    Cell,
    Fact,
    Line,
    Lines,
    Section,
    Table,
    Tile,
    Title,
)
from batchrec_dagster.reporting.views.first_screen import format_lead, format_time_in_utc
from batchrec_dagster.steps.outcomes.outcomes import Outcome

# The table of nights has at most MOST_NIGHTS rows. The newest few and the live edition are in view.
# The chart has at most NIGHTS_IN_CHART nights.
MOST_NIGHTS = 100
NIGHTS_IN_VIEW = 5
NIGHTS_IN_CHART = 40
# The number of risen items, and of fallen items, in view.
MOST_MOVED = 3
OUTCOMES_IN_VIEW = 3


def build_sections(page: Page) -> list[Section]:
    """Return the sections below the people, in order."""
    return [
        *([_build_changes(page.changes)] if page.changes is not None else []),
        _build_nights(page),
        _build_quality(page),
        *([_build_outcomes(page)] if page.outcomes else []),
        _build_reach(page),
        _build_catalogue(page),
        *([_build_rules(page)] if page.edition.rules else []),
    ]


def _build_changes(changes: Changes) -> Section:
    columns = ["", "Before", "Now"]
    tables = [
        Table(f"changed-{name}", title, [title, *columns[1:]], [_make_row(row) for row in rows])
        for name, title, rows in (
            ("settings", "Settings", changes.settings),
            ("data", "Data", changes.data),
            ("quality", "Quality and cost", _select_different(changes.quality)),
        )
        if rows
    ]
    items = [*changes.up, *changes.down]
    if items:
        in_view = [*changes.up[:MOST_MOVED], *changes.down[:MOST_MOVED]]
        items_out_of_view = [*changes.up[MOST_MOVED:], *changes.down[MOST_MOVED:]]
        tables.append(
            Table(
                "changed-items",
                f"Items up and down, in {changes.compared:,} lists",
                ["Items up and down: lists that have them", *columns[1:]],
                [_make_item_row(item) for item in [*in_view, *items_out_of_view]],
                rows_in_view=len(in_view),
            )
        )
    facts = [
        Tile(
            "Lists with the same items",
            Fact("same_lists", Number(value=changes.same_lists)),
            of=Fact("compared", Number(value=changes.compared)),
        ),
        Tile("New people", Fact("gained", Number(value=changes.gained))),
        Tile("People without a list now", Fact("lost", Number(value=changes.lost))),
    ]
    text = f"Edition {changes.after} compared with edition {changes.before}. {changes.caveat}"
    return Section("changes", "What changed", [text], tables, facts=facts, is_wide=True)


def _select_different(changes: Sequence[Change]) -> list[Change]:
    """Return the first change, which is the main metric, and the later changes that differ."""
    return [*changes[:1], *(change for change in changes[1:] if change.before != change.after)]


def _make_row(change: Change) -> list[Cell]:
    before = "default" if change.before is None else change.before
    after = "default" if change.after is None else change.after
    return [change.name, before, after]


def _make_item_row(item: ItemChange) -> list[Cell]:
    name = Title(shorten_title(item.title) or item.item)
    return [name, Number(value=item.before), Number(value=item.after)]


def _build_nights(page: Page) -> Section:
    newest = [*reversed(page.nights)][:MOST_NIGHTS]
    in_view = newest[:NIGHTS_IN_VIEW]
    if not any(night.is_live for night in in_view):
        # The live edition is in view, however many nights published nothing since.
        live = [night for night in newest if night.is_live]
        in_view = [*in_view[: NIGHTS_IN_VIEW - len(live)], *live]
    nights_out_of_view = [night for night in newest if night not in in_view]
    notes = [describe_success(newest), describe_changed_settings(newest)]
    table = Table(
        "nights",
        "Nights",
        ["Night (UTC)", "Edition", "How it ended", "NDCG@25", "Users", "Cost", "Time"],
        [_make_night_row(night) for night in [*in_view, *nights_out_of_view]],
        rows_in_view=len(in_view),
        note=" ".join(filter(None, notes)),
    )
    return Section(
        "nights", "Nights", tables=[table], lines=_draw_nights(page.nights), is_wide=True
    )


def _make_night_row(night: ListedNight) -> list[Cell]:
    ending = night.summary
    if night.reason and night.status in ENDED_BADLY:
        ending += f": {night.reason}"
    return [
        format_time_in_utc(night.time),
        "" if night.edition is None else str(night.edition),
        ending,
        night.ndcg_number,
        None if night.users is None else Number(value=night.users),
        None if night.cost_usd is None else Number(value=night.cost_usd, unit="usd"),
        None if night.seconds is None else Number(value=night.seconds, unit="seconds"),
    ]


def _draw_nights(nights: Sequence[ListedNight]) -> Lines | None:
    """Return a chart of the NDCG@25 of the latest nights that measured it.

    Returns None if fewer than two nights measured it.
    """
    measured = [night for night in nights if night.ndcg is not None][-NIGHTS_IN_CHART:]
    if len(measured) < 2:
        return None
    lines = [
        Line(
            "Editions",
            [night.ndcg_number if night.is_publication else None for night in measured],
        ),
        Line(
            "Most popular items",
            [
                None
                if night.popular_ndcg is None
                else Number(value=night.popular_ndcg, unit="score")
                for night in measured
            ],
        ),
        Line(
            "Refused",
            [None if night.is_publication else night.ndcg_number for night in measured],
            is_connected=False,
        ),
    ]
    labels = [_label_night(night) for night in measured]
    drawn = [line for line in lines if any(point is not None for point in line.points)]
    return Lines("NDCG@25 of the nights, with its 95% interval", labels, drawn)


def _label_night(night: ListedNight) -> str:
    """Return the edition's number, or how the night ended."""
    if night.edition is None:
        return night.status
    return f"{night.edition} again" if night.is_restoration else str(night.edition)


def _build_quality(page: Page) -> Section:
    edition = page.edition
    text = [f"{page.measured_by}. Each is the higher the better, and at most 1 or 100%."]
    if page.comparison is not None:
        metric, _, popular, lead = page.comparison
        sentence = f"Of {page.popular_name}, {metric} is {popular.sentence}"
        if lead is not None:
            sentence += f"; the lead of the model is {format_lead(lead)}"
        text.append(f"{sentence}.")
    if edition.trained_on and not edition.data_version.startswith(edition.trained_on):
        day = "" if edition.trained_at is None else f" on {edition.trained_at:%Y-%m-%d}"
        text.append(f"The model was trained{day}, on earlier data than those of the lists.")
    if page.has_newer_data:
        text.append(
            "The lists were made from earlier data than the newest, which histories on this page"
            " show."
        )
    table = Table(
        "quality",
        "Quality",
        ["Metric", "Model"],
        page.metrics,
        note="NDCG@25: how well the first 25 items match what people chose next; early ones count"
        " for more. Precision@10: share of the first ten that they chose. MRR@25: 1 if the first"
        " item is a hit, 0.5 if the second is. Coverage: share of the items that are recommended to"
        " somebody who was tested.",
    )
    return Section("quality", "Quality", text, [table] if page.metrics else [])


def _build_outcomes(page: Page) -> Section:
    title = "What people did with the lists"
    newest = page.newest_outcome or page.outcomes[-1]
    text = [" ".join(describe_outcome(newest))]
    if page.experiment:
        text.append(" ".join(page.experiment))
    rows = [
        _make_outcome_row(outcome)
        for outcome in reversed(page.outcomes)
        if outcome.hit_rate is not None
    ]
    table = Table(
        "outcomes",
        title,
        ["After edition", "From their list", "Popular items", "Active users"],
        rows,
        rows_in_view=OUTCOMES_IN_VIEW,
    )
    return Section("outcomes", title, text, [table] if rows else [])


def _make_outcome_row(outcome: Outcome) -> list[Cell]:
    rates = [
        None if rate is None else Number.of_estimate(rate, "share")
        for rate in (outcome.hit_rate, outcome.popular_hit_rate)
    ]
    name = f"{outcome.edition}, until {outcome.end:%Y-%m-%d}"
    return [name, *rates, Number(value=outcome.active_users)]


def _build_reach(page: Page) -> Section:
    edition, counts = page.edition, page.edition.counts
    requested = max(1, counts.requested)

    def make_row(name: str, number: int, fact: str = "") -> list[Cell]:
        value = Number(value=number)
        share = Number(value=number / requested, unit="share")
        return [name, Fact(fact, value) if fact else value, share]

    rows = [
        make_row("Requested", counts.requested),
        make_row("With a list", counts.subjects),
        make_row("With a full list", counts.full),
        make_row("Without interactions", counts.cold, "cold"),
        make_row("With 1 to 4 interactions", counts.few, "few"),
    ]
    if counts.failed:
        rows.append(make_row("Without a list, for an error of Personalize", counts.failed))
    if edition.users_dropped:
        rows.append(make_row("Dropped since: gone or erased", edition.users_dropped))
    text = []
    if edition.newcomers is not None and edition.newcomers.get is not None:
        text.append(f"Users without interactions get {_name_newcomers(edition.newcomers.get)}.")
    data = edition.data
    facts = [Tile("Median history", Fact("median", Number(value=counts.median_history)))]
    if data is not None:
        days = "without times, so that what is recent counts no more than what is old"
        if data.first_day:
            days = f"{data.first_day} to {data.last_day}"
        facts += [
            Tile("Interactions", Fact("interactions", Number(value=data.interactions))),
            Tile("of users", Fact("users", Number(value=data.users))),
            Tile("with items", Fact("items", Number(value=data.items))),
            Tile("Days", days),
            Tile("Data", page.source),
        ]
    table = Table("reach", "Users", ["Users", "Number", "Share of requested"], rows)
    return Section("reach", "Reach", text, [table], facts=facts)


def _name_newcomers(get: str | dict[str, str]) -> str:
    if isinstance(get, dict):
        return f"what is popular by {get['popular_by']}"
    return "no list" if get == "leave_out" else "popular items"


def _build_catalogue(page: Page) -> Section:
    counts = page.edition.counts
    rows: list[Sequence[Cell]] = [
        [
            Title(shorten_title(item.title) or item.item),
            Number(value=item.lists),
            Number(value=item.lists / max(1, counts.subjects), unit="share"),
            Number(value=item.interactions),
        ]
        for item in counts.most_recommended
    ]
    tables = [
        Table(
            "most",
            "Most recommended items",
            ["Most recommended", "Lists", "Share of lists", "Interactions"],
            rows,
            rows_in_view=5,
        ),
        *(
            _tabulate_category(number, category, shares)
            for number, (category, shares) in enumerate(counts.categories.items(), 1)
            if shares
        ),
    ]
    facts = [
        Tile(
            "Items recommended",
            Fact("recommended", Number(value=counts.items)),
            of=Fact("catalogue", Number(value=counts.catalogue)),
        ),
        Tile(
            "Top 1% of items in lists",
            Fact("top_lists", Number(value=counts.top_lists, unit="share")),
            note="of all results",
        ),
        Tile(
            "Top 1% in histories",
            Fact("top_histories", Number(value=counts.top_histories, unit="share")),
            note="of all interactions",
        ),
    ]
    return Section("catalogue", "Catalogue", tables=tables, facts=facts)


def _tabulate_category(number: int, category: str, shares: Sequence[CategoryShare]) -> Table:
    largest = max([1e-6, *(max(share.lists, share.histories) for share in shares)])
    return Table(
        f"category{number}",
        f"{category} in lists and histories",
        [category, "In lists", "In histories"],
        [
            [
                Title(share.value),
                Bar(Number(value=share.lists, unit="share"), largest),
                Bar(Number(value=share.histories, unit="share"), largest, is_quiet=True),
            ]
            for share in shares
        ],
        note="An item with several values counts for each.",
        fold=f"{shares[0].value}: {shares[0].lists:.1%} of all results",
    )


def _build_rules(page: Page) -> Section:
    filled = page.edition.filled
    text = [
        "Applied in this order to the results of the model, of which more were asked for than a"
        " list has."
    ]
    if filled is not None and filled.short_of_model:
        text.append(
            f"They left {filled.short_of_model:,} of {filled.of_model:,} lists short;"
            f" {filled.popular_rows:,} popular items fill these."
        )
    table = Table(
        "rules",
        "Rules",
        ["Rule", "Results left out", "Rows added", "Lists that lack it", "Lists emptied"],
        [
            [counts.rule, *(Number(value=number) for number in numbers)]
            for counts in page.edition.rules
            for numbers in [(counts.removed, counts.added, counts.unmet, counts.emptied)]
        ],
    )
    return Section("rules", "Rules", [" ".join(text)], [table])
