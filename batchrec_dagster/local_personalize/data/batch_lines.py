"""The input lines of batch jobs: each becomes one request, even a bad one, in bounded memory.

Source: developer guide, "Preparing input data for batch recommendations".
"""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from batchrec_dagster.personalize.batch_files import ITEM_LIST

from ..filters.job import JobFilter
from ..recipes import Recipe

MAX_LINE_BYTES = 1 << 20
LINES_AT_ONCE = 200_000
BYTES_AT_ONCE = 64 << 20
_PROGRESS_LINES = 1000

# Called with the number of newly answered lines; may raise to stop the job.
ReportLines = Callable[[int], None]


@dataclass(frozen=True)
class InputLine:
    """One input line: what the output echoes, and why it cannot be answered, if so."""

    content: dict[str, Any]
    problem: str | None = None
    values: dict[str, str] = field(default_factory=dict)  # its `filterValues`


@dataclass(frozen=True)
class LineAnswerer(ABC):
    """A recipe's model, with what its answers need."""

    recipe: Recipe
    filter: JobFilter | None

    def find_problem(self, request: InputLine) -> str | None:
        """Why the line cannot be answered, of itself or for the filter."""
        if request.problem is None and self.filter is not None:
            return self.filter.find_problem(request.values)
        return request.problem

    @abstractmethod
    def _answer_lines(self, requests: Sequence[InputLine]) -> Iterator[str]:
        """The output line of each request."""

    def answer(self, source: Path, target: Path, step: ReportLines) -> None:
        """Write one output line to `target` for each line of `source`, a block at a time."""
        with source.open("rb") as lines, target.open("w", encoding="utf-8", newline="\n") as out:
            for block in read_blocks(lines, self.recipe):
                written = 0
                for text in self._answer_lines(block):
                    out.write(text)
                    out.write("\n")
                    written += 1
                    if written % _PROGRESS_LINES == 0:
                        step(_PROGRESS_LINES)
                step(written % _PROGRESS_LINES)


def read_blocks(file: BinaryIO, recipe: Recipe) -> Iterator[list[InputLine]]:
    """The requests of a file, in blocks that fit into memory."""
    block: list[InputLine] = []
    size = 0
    for line in read_raw_lines(file):
        block.append(parse_line(line, recipe))
        size += len(line or b"")
        if len(block) >= LINES_AT_ONCE or size >= BYTES_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def read_raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines that are not blank; None for one that is too long. Skips a byte order mark."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield None
        elif line.strip():
            yield line


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in read_raw_lines(file))


def parse_line(line: bytes | None, recipe: Recipe) -> InputLine:
    """The request of a line; never raises."""
    if line is None:
        return InputLine({}, f"The line is longer than {MAX_LINE_BYTES} bytes")
    echo = _parse_echo(line)
    echo |= {name: _as_text(echo[name]) for name in recipe.input_fields if name in echo}
    if not all(_is_valid_field(name, echo.get(name)) for name in recipe.input_fields):
        fields = ", ".join(recipe.input_fields)
        return InputLine(echo, f"Required fields for the provided recipe are {fields}")
    values = echo.get("filterValues", {})
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        return InputLine(echo, "filterValues must be an object whose values are strings")
    return InputLine(echo, values=values)


def _parse_echo(line: bytes) -> dict[str, Any]:
    """The line's object; empty for one that the output could not echo: NaN, lone surrogates."""
    try:
        echo = json.loads(line.decode())
        json.dumps(echo, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {}
    return echo if isinstance(echo, dict) else {}


def _is_valid_field(name: str, value: Any) -> bool:
    if name == ITEM_LIST:
        return isinstance(value, list) and bool(value) and all(map(_is_text, value))
    return _is_text(value)


def _as_text(value: Any) -> Any:
    """An id, or a list of ids, as text: programs write some as numbers. Others unchanged."""
    if isinstance(value, list):
        return [_as_text(entry) if isinstance(entry, int) else entry for entry in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
