"""What Dagster remembers of runs: samples and previews of assets, messages, console logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from batchrec_dagster.dagster_internals.stored_texts import change_texts, count_texts
from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.storage import durable

# What separates the columns of a line of Dagster's console log: time, level, job, run, message.
SEPARATOR = " - "


@dataclass(frozen=True)
class RunEvents:
    """The events of all runs, of which the ids in texts for people are erased."""

    instance: dg.DagsterInstance
    home: Path
    """Dagster's home."""
    name: str = "run history"
    consequence: str = "ids in samples, previews and messages replaced by [erased]"

    def count(self, people: People) -> Amount:
        return Amount(count_texts(self.instance, self.home, people.redact), "events")

    def erase(self, people: People) -> int:
        return change_texts(self.instance, self.home, people.redact)


@dataclass(frozen=True)
class ConsoleLogs:
    """The console logs of all runs in Dagster's home, of which ids are erased."""

    home: Path
    """Dagster's home."""
    name: str = "console logs"
    consequence: str = "ids replaced by [erased]"

    def count(self, people: People) -> Amount:
        number = sum(
            before != after for _, text in self._list() for before, after in _change(text, people)
        )
        return Amount(number, "lines")

    def erase(self, people: People) -> int:
        number = 0
        for path, text in self._list():
            lines = list(_change(text, people))
            lines_changed = sum(before != after for before, after in lines)
            if lines_changed:
                mode = path.stat().st_mode
                content = "".join(after for _, after in lines)
                durable.write(path, [content.encode(errors="surrogateescape")])
                path.chmod(mode)
            number += lines_changed
        return number

    def _list(self) -> Iterator[tuple[Path, str]]:
        """The path and the text of each log."""
        for ending in ("out", "err"):
            for path in sorted(self.home.glob(f"**/compute_logs/*.{ending}")):
                if path.is_file():
                    yield path, path.read_bytes().decode(errors="surrogateescape")


def _change(text: str, people: People) -> Iterator[tuple[str, str]]:
    """Each line with its end, and the same without the people's ids."""
    for line in text.splitlines(keepends=True):
        # The first columns have the time and the run's id.
        *columns, message = line.split(SEPARATOR, 5)
        yield line, SEPARATOR.join([*columns, people.redact(message)])
