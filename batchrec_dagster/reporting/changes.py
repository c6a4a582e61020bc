"""What changed between two editions: the report's section, and the text of `batchrec diff`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markupsafe import Markup

from batchrec_dagster.reporting import terminal
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
)

TITLE = "What changed"


def build_changes_section(changes: EditionDiff | None, drift: Drift | None) -> ReportSection:
    """The section; what there is nothing to compare with is left out."""
    if changes is None:
        text_of_first_edition = "No earlier edition is kept: later ones are compared with this one."
        return ReportSection(
            "changes", TITLE, [text_of_first_edition], figures=[*_make_data_figure(drift)]
        )
    compared = f"Edition {changes.after} compared with edition {changes.before}."
    text = [
        compared,
        *(f"{caveat[0].upper()}{caveat[1:]}." for caveat in _describe_caveats(changes)),
    ]
    lists = f"How many of {changes.compared:,} lists have the item."
    shifts = [
        _make_figure(name, title, lists, _make_rows(items, format_count))
        for name, (title, items) in _select_movers(changes).items()
    ]
    figures = [*_make_tables(changes), *_make_data_figure(drift), *shifts]
    return ReportSection("changes", TITLE, text, [*_make_tiles(changes)], figures)


def _describe_caveats(changes: EditionDiff) -> Iterator[str]:
    if changes.settings is None:
        yield f"edition {changes.before} does not say which settings made it"
    elif not changes.settings:
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


def _make_data_figure(drift: Drift | None) -> Iterator[Figure]:
    if drift is None:
        return
    before, now = drift.before, drift.now
    rows: list[list[str | Markup]] = [
        [name, format_count(before.numbers[name]), format_count(value)]
        for name, value in now.numbers.items()
    ]
    rows += [
        ["first day", before.first, now.first],
        ["last day", before.last, now.last],
        ["new items", "", format_count(drift.new_items)],
        ["vanished items", "", format_count(drift.vanished_items)],
    ]
    events = sorted({*before.events, *now.events})
    for event in events if len(events) > 1 else ():
        shares = (format_percent(data.events.get(event, 0.0)) for data in (before, now))
        rows.append([f"events of type {event}", *shares])
    if before.mean_value is not None and now.mean_value is not None:
        rows.append(
            ["mean event value", format_score(before.mean_value), format_score(now.mean_value)]
        )
    yield _make_figure(
        "data", "Data", "The interactions, since the last run that had others.", rows
    )


def _select_movers(changes: EditionDiff) -> dict[str, tuple[str, Sequence[ItemShift]]]:
    movers = {
        "risers": ("Items that rose most", changes.risers),
        "fallers": ("Items that fell most", changes.fallers),
    }
    return {name: (title, shifts) for name, (title, shifts) in movers.items() if shifts}


def _make_rows(
    changes: Sequence[SettingChange | ItemShift], cell: Callable[[Any], str]
) -> list[list[str]]:
    """A row for each: what changed, before, now."""
    return [
        [
            change.name
            if isinstance(change, SettingChange)
            else shorten_title(change.title) or change.item,
            cell(change.before),
            cell(change.after),
        ]
        for change in changes
    ]


def _make_figure(
    name: str, title: str, caption: str, rows: Sequence[Sequence[str | Markup]]
) -> Figure:
    return Figure(f"changed-{name}", title, caption, None, ["", "Before", "Now"], rows)


COLUMNS = [
    terminal.Column(""),
    terminal.Column("before", right=True),
    terminal.Column("now", right=True),
]


def format_diff(pipeline: str, diff: EditionDiff, width: int | None) -> str:
    """For a terminal of this width, or for a pipe (None)."""
    heading = [f"{pipeline}: edition {diff.after} compared with edition {diff.before}"]
    metrics = diff.metrics if diff.comparable else []
    tables = {
        "Settings": _make_rows(diff.settings or [], _format_value),
        "Data": [*_make_data_rows(diff.data)],
        "Metrics": _make_rows(metrics, _format_value),
    }
    sections = [
        [terminal.TerminalTable(title, COLUMNS, rows)] for title, rows in tables.items() if rows
    ]
    shifts = [
        terminal.TerminalTable(title, COLUMNS, _make_rows(items, _format_value))
        for title, items in _select_movers(diff).values()
    ]
    return terminal.render(
        [*heading, *_describe_overlap(diff)],
        [*sections, *([shifts] if shifts else [])],
        width=width,
    )


def _make_data_rows(changes: Sequence[SettingChange]) -> Iterator[list[str]]:
    for change in changes:
        values = (change.before, change.after)
        if change.name == "events":
            for event in sorted({name for shares in values for name in shares}):
                shares = (f"{of.get(event, 0.0):.1%}" if of else "" for of in values)
                yield [f"events of type {event}", *shares]
        else:
            yield [
                change.name,
                *("none" if value is None else _format_value(value) for value in values),
            ]


def _describe_overlap(diff: EditionDiff) -> Iterator[str]:
    if diff.overlap is None:
        yield "no user has a list in both"
    else:
        yield (
            f"{diff.overlap:.1%} of a list is kept, on average over {diff.compared:,} users;"
            f" {diff.same_lists:,} lists have the same items"
        )
    yield f"{diff.gained:,} users are new, {diff.lost:,} have no list any more"
    yield from _describe_caveats(diff)


def _format_value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else format_setting(value)
