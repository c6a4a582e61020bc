"""The nights of a pipeline as they are shown: JSON, text, and a section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from itertools import groupby
from operator import itemgetter
from typing import Any

from markupsafe import Markup

from batchrec_dagster.personalize.measurements import join_events
from batchrec_dagster.reporting.charts import Chart, Interval
from batchrec_dagster.reporting.insight.numbers import format_duration
from batchrec_dagster.reporting.nights import ListedNight
from batchrec_dagster.reporting.sections import (
    Figure,
    ReportSection,
    format_count,
    format_with_interval,
    mark_days,
)
from batchrec_dagster.reporting.views.plain import format_time

# The table in a terminal has this many nights, that of the report and its chart as many as below.
MOST_IN_TERMINAL = 60
MOST_IN_REPORT = 100
MOST_IN_CHART = 40
# The table of the report has this many nights in view; the others are folded.
NIGHTS_IN_VIEW = 4

NOT_KNOWN = "–"  # noqa: RUF001
NOT_KNOWN_NOTE = f"{NOT_KNOWN}: not known, because it was not measured"


def describe_nights(pipeline: str, nights: Sequence[ListedNight]) -> dict[str, Any]:
    """The nights for JSON, newest first."""
    return {"pipeline": pipeline, "nights": [_describe_night(night) for night in reversed(nights)]}


def _describe_night(night: ListedNight) -> dict[str, Any]:
    values = night.model_dump(exclude={"ended", "version", "data_until"})
    for name in ("time", "until"):
        time = values[name]
        values[name] = None if time is None else time.astimezone(UTC).isoformat(timespec="seconds")
    return values


def _describe_success(newest: Sequence[ListedNight]) -> list[str]:
    """A sentence about the events that the NDCG of each edition counts; none if it counts all.

    newest: the nights, newest first.
    """
    measured = [night for night in newest if night.is_publication and night.ndcg is not None]
    numbers = {night.edition: join_events(night.success) or "all events" for night in measured}
    if {*numbers.values()} <= {"all events"}:
        return []
    # Editions in a row that count the same are one part of the sentence.
    parts = [
        (events, [edition for edition, _ in group])
        for events, group in groupby(numbers.items(), key=itemgetter(1))
    ]
    if len(parts) == 1:
        return [f"NDCG@25 counts {parts[0][0]} alone."]
    described = [f"{events} from edition {editions[-1]} on" for events, editions in parts[:-1]]
    return [
        f"NDCG@25 counts {'; '.join(described)}; before that, {parts[-1][0]}. These cannot"
        " be compared."
    ]


def _make_cells(night: ListedNight) -> list[object]:
    when = format_time(night.time.astimezone(UTC))
    interval = None
    if night.ndcg_low is not None and night.ndcg_high is not None:
        interval = f"{night.ndcg_low:.3f}-{night.ndcg_high:.3f}"
    return [
        when,
        night.edition,
        night.summary,
        _format_fact(night, None if night.ndcg is None else f"{night.ndcg:.4f}"),
        interval,
        _format_fact(night, None if night.users is None else f"{night.users:,}"),
        _format_fact_of_run(night, _format_usd(night.cost_usd)),
        _format_fact_of_run(night, format_duration(night.seconds) or None),
    ]


def _format_fact(night: ListedNight, text: str | None) -> str | None:
    """A fact of an edition, which may not be known. Other nights need not have it."""
    return NOT_KNOWN if text is None and night.is_publication else text


def _format_fact_of_run(night: ListedNight, text: str | None) -> str | None:
    """A fact of the run that made an edition. A restored edition was made by an earlier run."""
    return text if night.is_restoration else _format_fact(night, text)


def _format_usd(cost: float | None) -> str | None:
    if cost is None:
        return None
    return f"{cost:,.2f}" if cost else "0"


def build_nights_section(nights: Sequence[ListedNight]) -> ReportSection:
    """The section of the report: a chart and a table of the nights."""
    newest = [*reversed(nights)][:MOST_IN_REPORT]
    text = [
        "What each night published, or why it published nothing. USD is what the run paid, Time how"
        " long it took until its lists were live, or until it ended."
    ]
    if len(nights) > len(newest):
        text.append(
            f"The newest {len(newest)} of {len(nights):,} nights; batchrec list --editions has all."
        )
    return ReportSection("nights", "Editions", text, figures=[_draw_nights(nights, newest)])


EDITIONS, POPULAR, REFUSED = "Editions", "Most popular items", "Refused"


def _draw_nights(nights: Sequence[ListedNight], newest: Sequence[ListedNight]) -> Figure:
    """A chart of the latest nights, oldest on the left, and the table of those in `newest`."""
    drawn_nights = [night for night in nights if night.status != "unchanged"][-MOST_IN_CHART:]
    labels = _label_nights(drawn_nights)
    points: list[tuple[str, float | None, float | None, float | None]] = []
    for night, label in zip(drawn_nights, labels, strict=True):
        published = night.ndcg if night.is_publication else None
        refused = None if night.is_publication else night.ndcg
        points.append((label, published, night.popular_ndcg, refused))
    note = ""
    settings = {
        (night.success, night.measured_on)
        for night in drawn_nights
        if night.measured_on is not None
    }
    if len(settings) > len({events for events, _ in settings}):
        note += SETTINGS_CHANGED
    note += "".join(f" {sentence}" for sentence in _describe_success(newest))
    caption = "NDCG@25 with its 95% interval, the newest night first."
    chart = None
    # One night makes no line, and the table has its numbers.
    if sum(any(value is not None for value in values) for _, *values in points) > 1:
        caption = "NDCG@25 with its 95% interval: the newest on the right, and first in the table."
        has_refused = any(point[3] is not None for point in points)
        series = [EDITIONS, POPULAR, *([REFUSED] if has_refused else [])]
        chart = Chart(
            "lines",
            "Edition",
            "NDCG@25",
            series,
            [(label, *values[: len(series)]) for label, *values in points],
            intervals=[_list_intervals(night) for night in drawn_nights],
            unconnected=[REFUSED],
        )
    return Figure(
        "nights",
        "Nights",
        caption,
        chart,
        ["Night (UTC)", "Edition", "Status", "NDCG@25", "Users", "USD", "Time"],
        [_make_report_cells(night) for night in newest],
        is_wide=True,
        note=note.strip(),
        rows_in_view=NIGHTS_IN_VIEW,
    )


def _list_intervals(night: ListedNight) -> list[Interval | None]:
    """The intervals in the chart's three series: editions, popular items, refused lists."""
    if night.ndcg_low is None or night.ndcg_high is None:
        return [None, None, None]
    interval = (night.ndcg_low, night.ndcg_high)
    return [interval, None, None] if night.is_publication else [None, None, interval]


# Added to the note, with the space that separates it.
SETTINGS_CHANGED = (
    " The settings of the interactions changed between some of them: these cannot be compared."
)


def _label_nights(nights: Sequence[ListedNight]) -> list[str]:
    """A label for each night, all different: the edition's number, or how the night ended."""
    labels: list[str] = []
    for night in nights:
        if night.edition is None:
            text = f"{night.status} {night.time.astimezone(UTC):%m-%d}"
        else:
            text = f"{night.edition} again" if night.is_restoration else str(night.edition)
        label, number = text, 1
        while label in labels:
            number += 1
            label = f"{text} ({number})"
        labels.append(label)
    return labels


def _make_report_cells(night: ListedNight) -> list[str | Markup]:
    when = format_time(night.time.astimezone(UTC))
    _, _, status, _, _, _, usd, time = _make_cells(night)
    unknown = Markup("{}").format(NOT_KNOWN if night.is_publication else "")
    estimate: Markup = unknown
    if night.ndcg is not None:
        interval = None
        if night.ndcg_low is not None and night.ndcg_high is not None:
            interval = night.ndcg_low, night.ndcg_high
        estimate = format_with_interval(night.ndcg, interval)
    return [
        mark_days(when),
        Markup("{}").format(night.edition or ""),
        str(status),
        estimate,
        unknown if night.users is None else format_count(night.users),
        Markup("{}").format(usd or ""),
        Markup("{}").format(time or ""),
    ]
