"""The output of `batchrec list`: the lists with their verdicts, or the nights of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from batchrec_dagster.reporting.insight.nights import ListedNight, describe_success
from batchrec_dagster.reporting.insight.numbers import Number, format_duration
from batchrec_dagster.reporting.insight.overview import ListOverview
from batchrec_dagster.reporting.views.plain import format_time
from batchrec_dagster.reporting.views.terminal import NOT_KNOWN, Cell, Column, Terminal

# The maximum number of nights that a terminal shows. A pipe gets all nights.
MOST_IN_TERMINAL = 60


def describe_night(night: ListedNight) -> str:
    """Return how, when and why the night ended, in a sentence without a full stop."""
    when = f"{night.summary}, {format_time(night.time.astimezone())}"
    return f"{when}: {night.reason}" if night.reason else when


def print_overviews(
    terminal: Terminal, overviews: Sequence[ListOverview], unended: Mapping[str, str]
) -> None:
    """Print a line for each list, and the reasons of last nights that did not go well.

    Such a night was refused or stopped, or a step failed.

    unended: the texts for lists with a last run that has not ended, by address.
    """
    terminal.print_table(
        "",
        [
            Column("pipeline", "keep"),
            Column("verdict", "wrap"),
            "edition",
            Column("made", "keep"),
            "users",
            Column("last night", "keep"),
        ],
        [_make_overview_cells(overview, unended.get(overview.address)) for overview in overviews],
    )
    failures = [(overview.address, overview.last_failure) for overview in overviews]
    for address, night in failures:
        if night is not None and night.reason:
            terminal.print_finding("refuse", f"{address}: {night.summary}: {night.reason}")


def _make_overview_cells(overview: ListOverview, unended: str | None) -> list[Cell]:
    edition, night = overview.edition, overview.last_night
    ended: Cell = "never"
    if night is not None:
        # The column `made` already has the date of an edition that was published last night.
        is_new = night.status == "published" and edition is not None
        ended = night.status if is_new else f"{night.status} {night.time.astimezone():%Y-%m-%d}"
    if unended is not None:
        ended = unended
    if edition is None:
        return [overview.address, NOT_KNOWN, None, None, None, ended]
    made = f"{edition.made_at.astimezone():%Y-%m-%d}"
    return [overview.address, overview.verdict, edition.number, made, edition.users, ended]


# In a terminal of 80 columns there is room for dates, but not for times.
COLUMNS = (
    Column("night (UTC)", "keep", right=True),
    "edition",
    Column("status", "wrap"),
    "NDCG@25",
    "users",
    "USD",
    Column("time", "keep", right=True),
)
USD = COLUMNS.index("USD")


def print_nights(terminal: Terminal, address: str, nights: Sequence[ListedNight]) -> None:
    """Print a line for each night, newest first."""
    most = len(nights) if terminal.width is None else MOST_IN_TERMINAL
    newest = [*reversed(nights)][:most]
    notes = []
    if any(night.ndcg is not None and night.ndcg.margin is not None for night in newest):
        notes.append("In brackets: the 95% interval.")
    notes.append(describe_success(newest))
    if len(nights) > most:
        notes.append(f"{len(nights) - most:,} older nights are not shown: --json has all.")
    if not nights:
        notes.append("none yet")
    columns: list[Column | str] = [*COLUMNS]
    rows = [_make_night_cells(night) for night in newest]
    if not any(night.cost_usd for night in newest):
        # Nothing was paid for, so the column of costs is left out.
        del columns[USD]
        for row in rows:
            del row[USD]
    terminal.print_table(
        f"Nights of {address}, newest first", columns, rows, " ".join(filter(None, notes))
    )


def _make_night_cells(night: ListedNight) -> list[Cell]:
    # A restored edition was made, and paid for, by an earlier run.
    is_new = not night.is_restoration
    usd = None if night.cost_usd is None else Number(value=night.cost_usd, unit="usd")
    return [
        f"{night.time.astimezone(UTC):%Y-%m-%d}",
        night.edition,
        night.summary,
        night.ndcg_number,
        night.users,
        usd if is_new else None,
        format_duration(night.seconds) if is_new else None,
    ]
