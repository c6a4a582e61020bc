"""What changed between two editions: the report's section, and the text of `batchrec diff`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markupsafe import Markup

from batchrec_dagster.reporting.drift import Drift
from batchrec_dagster.reporting.editions import (
    EditionDiff,
    ItemShift,
    SettingChange,
    format_setting,
)
from batchrec_dagster.reporting.people import shorten_title
from batchrec_dagster.reporting.sections import (
    Figure,
    ReportSection,
    Tile,
    format_count,
    format_percent,
    format_score,
    mark_days,
)

TITLE = "What changed"


def build_changes_section(changes: EditionDiff | None, drift: Drift | None) -> ReportSection:
    """The section of the report.

    `changes` is None if what readers had before is not kept, and `drift` if no edition before had
    different data. What cannot be compared is left out.
    """
    data_figures = [_make_data_figure(drift)] if drift else []
    if changes is None:
        text = ["No earlier edition is kept: later ones are compared with this one."]
        return ReportSection("changes", TITLE, text, figures=data_figures)
    text = [f"Edition {changes.after} compared with edition {changes.before}."]
    text += [f"{caveat[0].upper()}{caveat[1:]}." for caveat in _describe_caveats(changes)]
    caption = f"How many of {changes.compared:,} lists have the item."
    shifts = [
        _make_figure(name, title, caption, _make_rows(items, format_count))
        for name, (title, items) in _select_movers(changes).items()
    ]
    figures = [*_make_tables(changes), *data_figures, *shifts]
    return ReportSection("changes", TITLE, text, [*_make_tiles(changes)], figures)


def _describe_caveats(changes: EditionDiff) -> Iterator[str]:
    """What to know before reading the numbers, in sentences without a capital and a full stop."""
    if not changes.settings:
        yield "the settings are the same"
    if not changes.comparable:
        yield "the metrics were measured on different interactions: they cannot be compared"


def _make_tiles(changes: EditionDiff) -> Iterator[Tile]:
    if changes.overlap is not None:
        yield Tile(
            "overlap",
            "Kept in a list",
            format_percent(changes.overlap),
            "of a person’s items were in their list before, on average",  # noqa: RUF001
        )
        yield Tile(
            "same_lists",
            "Lists with the same items",
            format_count(changes.same_lists),
            f"of {changes.compared:,} lists compared",
        )
    yield Tile("gained", "New people", format_count(changes.gained), "have a list now and had none")
    yield Tile("lost", "People without a list", format_count(changes.lost), "had one before")


def _make_tables(changes: EditionDiff) -> Iterator[Figure]:
    if changes.settings:
        rows = _make_rows(changes.settings, format_setting)
        yield _make_figure("settings", "Settings", "What was declared.", rows)
    if changes.metrics and changes.comparable:
        rows = _make_rows(changes.metrics, format_score)
        yield _make_figure("metrics", "Metrics", "Measured on held-out users.", rows)


def _make_data_figure(drift: Drift) -> Figure:
    before = drift.before
    now = drift.now
    rows: list[list[str | Markup]] = [
        [name, format_count(before.numbers[name]), format_count(value)]
        for name, value in now.numbers.items()
    ]
    rows += [
        ["first day", mark_days(before.first), mark_days(now.first)],
        ["last day", mark_days(before.last), mark_days(now.last)],
        ["new items", "", format_count(drift.new_items)],
        ["vanished items", "", format_count(drift.vanished_items)],
    ]
    events = sorted({*before.events, *now.events})
    # If there is only one type of events, its share is always 100%.
    if len(events) > 1:
        rows += [
            [
                f"events of type {event}",
                format_percent(before.events.get(event, 0.0)),
                format_percent(now.events.get(event, 0.0)),
            ]
            for event in events
        ]
    if before.mean_value is not None and now.mean_value is not None:
        rows.append(
            ["mean event value", format_score(before.mean_value), format_score(now.mean_value)]
        )
    caption = "What changed in the interactions since the last edition with different data."
    return _make_figure("data", "Data", caption, rows)


def _select_movers(changes: EditionDiff) -> dict[str, tuple[str, Sequence[ItemShift]]]:
    """The items that rose and those that fell, each with a title, by the name of the figure.

    What has no items is left out.
    """
    movers = {
        "risers": ("Items that rose most", changes.risers),
        "fallers": ("Items that fell most", changes.fallers),
    }
    return {name: (title, shifts) for name, (title, shifts) in movers.items() if shifts}


def _make_rows(
    changes: Sequence[SettingChange | ItemShift], format_value: Callable[[Any], str]
) -> list[list[str]]:
    """A row for each change: what changed, its value before, and its value now."""
    rows = []
    for change in changes:
        if isinstance(change, SettingChange):
            name = change.name
        else:
            name = shorten_title(change.title) or change.item
        rows.append([name, format_value(change.before), format_value(change.after)])
    return rows


def _make_figure(
    name: str, title: str, caption: str, rows: Sequence[Sequence[str | Markup]]
) -> Figure:
    return Figure(f"changed-{name}", title, caption, None, ["", "Before", "Now"], rows)
