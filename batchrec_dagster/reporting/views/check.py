"""The output of `batchrec check`: open problems first, then the number of passed checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchrec_dagster.editions.edition import Level
from batchrec_dagster.reporting.insight.readiness import Readiness, ReadinessStatus
from batchrec_dagster.reporting.views.plain import escape_invisible, shorten_declarations
from batchrec_dagster.reporting.views.terminal import MARKS, Terminal

# The word and the level of each status, the most urgent first.
WORDS: Mapping[ReadinessStatus, tuple[str, Level]] = {
    "failed": ("FAILED", "refuse"),
    "warning": ("warning", "watch"),
    "unknown": ("unknown", "watch"),
    "ok": ("ok", "good"),
}
WORD_WIDTH = 9


def print_readiness(terminal: Terminal, results: Sequence[Readiness]) -> None:
    """Print the open problems, failures first, and the names of the passed checks."""
    urgent = [result for result in results if result.status != "ok"]
    urgent.sort(key=lambda result: [*WORDS].index(result.status))
    name_width = max((len(result.check) for result in urgent), default=0)
    for result in urgent:
        start = f"{result.check:<{name_width}}  "
        text = result.message if terminal.width is None else shorten_declarations(result.message)
        _print_status(terminal, result.status, start, text)
        indentation = " " * (2 + WORD_WIDTH + len(start))
        terminal.print_sentence(result.fix, start=f"{indentation}-> ")
    passed = [result.check for result in results if result.status == "ok"]
    if passed:
        _print_status(terminal, "ok", "", f"{len(passed)} passed: {', '.join(passed)}")


def _print_status(terminal: Terminal, status: ReadinessStatus, name: str, text: str) -> None:
    word, level = WORDS[status]
    symbol, style = MARKS[level]
    start = f"{symbol} {word:<{WORD_WIDTH}}{escape_invisible(name)}"
    terminal.print_sentence(text, start=start, style=style)
