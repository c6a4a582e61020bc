"""What the lists of earlier days would have brought, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchrec_dagster.outcomes.outcome import Outcome, Rate
from batchrec_dagster.reporting import terminal
from batchrec_dagster.storage.published_table import Edition

COLUMNS = [
    terminal.Column("data until"),
    terminal.Column("then until"),
    terminal.Column("active", right=True),
    terminal.Column("chose from list", right=True),
    terminal.Column("popular", right=True),
    terminal.Column("gain", right=True),
]
NOTE = (
    "chose from list: the share of active users who chose something from their list in that time,"
    " with its 95% interval; popular: the same of that day's most popular items. Nobody saw these"
    " lists: the numbers say how well they foresee what people do, not what they would cause."
)


def format_backtest(
    address: str, outcomes: Sequence[Outcome], editions: Sequence[Edition], width: int | None
) -> str:
    """The outcome of each day's lists.

    address: what people call the lists.
    outcomes: of each day, and those of all days together, with the edition 0.
    editions: those that the outcomes are of.
    width: the terminal's; None for a pipe.
    """
    days = {edition.number: str(edition.about.get("as_of", "")) for edition in editions}
    if len({outcome.edition for outcome in outcomes} - {0}) > 1:
        days[0] = "all days"
    rows = [[*_list_cells(outcome, days)] for outcome in outcomes if outcome.edition in days]
    heading = f"{address}: {len(editions)} days tried"
    if not rows:
        return terminal.render([f"{heading}; people did nothing after them"], [], width=width)
    return terminal.render(
        [heading], [[terminal.TerminalTable("Each day", COLUMNS, rows, NOTE)]], width=width
    )


def _list_cells(outcome: Outcome, days: dict[int, str]) -> Iterator[str]:
    yield days[outcome.edition] + (f" ({outcome.arm})" if outcome.arm != "model" else "")
    yield f"{outcome.end:%Y-%m-%d}"
    yield f"{outcome.active_users:,}"
    yield _format_rate(outcome.hit_rate)
    popular = outcome.popular_hit_rate
    yield "" if popular is None else f"{popular.value:.1%}"
    gain = outcome.gain
    if gain is None:
        yield ""
    else:
        low, high = 100 * gain.low, 100 * gain.high
        yield f"{100 * gain.value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _format_rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
