"""The first screen of the page as blocks: the edition at a glance, and two comparisons as bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from batchrec_dagster.reporting.insight.nights import ENDED_BADLY, ListedNight
from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.reporting.insight.outcomes import NOTHING_YET, REPLAYED
from batchrec_dagster.reporting.insight.page import Page
from batchrec_dagster.reporting.views.blocks import Bar, Cell, Fact, Judged, Section, Table, Tile


def format_time_in_utc(time: datetime) -> str:
    """Return the time to the minute in UTC, such as `2026-01-31 09:05`."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def build_strip(page: Page) -> Iterator[Tile]:
    """Yield the tiles that show the edition at a glance."""
    edition, counts = page.edition, page.edition.counts
    yield Tile("Edition", str(edition.number))
    yield Tile("Live since (UTC)", format_time_in_utc(page.live_since))
    served = Fact("served", Number(value=edition.users or 0))
    requested = Fact("requested", Number(value=counts.requested - edition.users_dropped))
    yield Tile("Users served", served, of=requested)
    yield Tile("Items each", Fact("longest", Number(value=counts.longest)), note="at most")
    if page.changes is None:
        yield Tile("Unchanged items", "first edition")
    elif page.changes.kept is not None:
        kept = Fact("overlap", Number(value=page.changes.kept, unit="share"))
        yield Tile("Unchanged items", kept, note=f"since edition {page.changes.before}")
    passed = sum(check.level == "good" for check in page.checks)
    level = "" if passed == len(page.checks) else "watch"
    yield Tile("Checks passed", f"{passed:,} of {len(page.checks):,}", level=level)
    night = page.last_night
    if night is not None:
        level = _judge_night(night)
        yield Tile("Last night", night.summary.removesuffix(", live"), level=level)
    yield Tile("Cost", Number(value=edition.cost_usd, unit="usd").text)


def _judge_night(night: ListedNight) -> str:
    """Return the level of the tile of a night: a run that ended, or a rollback.

    The level is `refuse` if the night was refused, failed or was stopped, `watch` if a step failed
    after the publication, and otherwise empty.
    """
    if night.status in ENDED_BADLY:
        return "refuse"
    return "watch" if night.steps else ""


def explain_last_night(page: Page) -> Judged | None:
    """Return a text on the last night if it was refused, failed or stopped; None otherwise."""
    night = page.last_night
    if night is None or night.status not in ENDED_BADLY:
        return None
    text = f"Last night was {night.summary}"
    if night.reason:
        text += f": {night.reason}"
    end = "" if text.endswith((".", "…")) else "."
    return Judged("refuse", f"{text}{end} People still have edition {page.edition.number}.")


def build_comparisons(page: Page) -> list[Section]:
    """Return the comparisons with popular items: on held-out data, and on people's real choices."""
    return [_compare_held_out(page), _compare_choices(page)]


def _compare_held_out(page: Page) -> Section:
    title = "What people chose next, hidden from the model"
    if page.comparison is None:
        return Section("held-out", title, ["Nothing was measured."])
    name, model, popular, lead = page.comparison
    largest = max(_upper_end(model), _upper_end(popular), 1e-6)
    rows: list[Sequence[Cell]] = [
        ["This model", Bar(model, largest, fact="ndcg")],
        [
            page.popular_name.capitalize(),
            Bar(popular, largest, is_quiet=True, fact="popular_ndcg"),
        ],
    ]
    sentences = [f"{name}, from 0 to 1: how well the first 25 items match it. {page.measured_by}."]
    if lead is not None:
        sentences.append(f"The lead is {format_lead(lead)}.")
    return Section(
        "held-out", title, [" ".join(sentences)], [Table("held-out", title, ["", ""], rows)]
    )


def format_lead(lead: Number) -> str:
    """Return a difference with its interval, such as `+0.11 (95% interval 0.10 to 0.12)`."""
    sign = "+" if lead.value > 0 else ""
    interval = f" (95% interval {lead.interval})" if lead.interval else ", without an interval"
    return f"{sign}{lead.text}{interval}"


def _upper_end(number: Number) -> float:
    """Return the upper end of the number's interval; without an interval, the number itself."""
    return number.value if number.high is None else number.high


def _compare_choices(page: Page) -> Section:
    title = "What people really chose"
    outcome = page.newest_outcome
    if outcome is None or outcome.hit_rate is None or outcome.popular_hit_rate is None:
        return Section("choices", title, [NOTHING_YET])
    lists = Number.of_estimate(outcome.hit_rate, "share", measured_on=outcome.active_users)
    popular = Number.of_estimate(outcome.popular_hit_rate, "share")
    largest = max(_upper_end(lists), _upper_end(popular), 1e-6)
    rows: list[Sequence[Cell]] = [
        ["Something from their list", Bar(lists, largest, fact="hit_rate")],
        ["That day’s popular items", Bar(popular, largest, is_quiet=True)],  # noqa: RUF001
    ]
    caption = (
        f"Of {outcome.active_users:,} users who chose something new after edition"
        f" {outcome.edition}{', by ' + outcome.success + ' alone' if outcome.success else ''}."
    )
    if outcome.since == "data":
        caption += f" {REPLAYED}"
    return Section("choices", title, [caption], [Table("choices", title, ["", ""], rows)])
