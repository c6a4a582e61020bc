"""The lines of batch jobs: each input line gets an output line, even a bad one, in bounded memory.

Source: developer guide, "Preparing input data for batch recommendations".
"""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..filters.job import JobFilter
from ..recipes import Recipe

MAX_LINE_BYTES = 1 << 20
"""The longest line that is answered."""

# How many lines, and how many bytes of them, are held in memory at once.
LINES_AT_ONCE = 200_000
BYTES_AT_ONCE = 64 << 20

_PROGRESS_LINES = 1000
"""After how many answered lines progress is reported."""

ReportLines = Callable[[int], None]
"""Is called with the number of newly answered lines, and may raise to stop the job."""


@dataclass(frozen=True)
class InputLine:
    """One input line, as far as it could be read."""

    content: dict[str, Any]
    """The line's JSON object, which the output line repeats."""
    problem: str | None = None
    """Why the line cannot be answered, or None if it can."""


@dataclass(frozen=True)
class LineAnswerer(ABC):
    """Answers input lines by a recipe's model. A bad line gets an error."""

    recipe: Recipe
    filter: JobFilter | None

    @abstractmethod
    def _answer_lines(self, lines: Sequence[InputLine]) -> Iterator[str]:
        """Yield the output line of each input line, in their order."""

    def answer(self, source: Path, target: Path, report_lines: ReportLines) -> None:
        """Write one output line to `target` for each line of `source`, a block at a time.

        Raises what `report_lines` raises.
        """
        with (
            source.open("rb") as source_file,
            target.open("w", encoding="utf-8", newline="\n") as target_file,
        ):
            for block in read_blocks(source_file, self.recipe):
                written = 0
                for output_line in self._answer_lines(block):
                    target_file.write(output_line)
                    target_file.write("\n")
                    written += 1
                    if written % _PROGRESS_LINES == 0:
                        report_lines(_PROGRESS_LINES)
                report_lines(written % _PROGRESS_LINES)


def read_blocks(file: BinaryIO, recipe: Recipe) -> Iterator[list[InputLine]]:
    """Yield the lines of a file, in blocks that fit into memory."""
    block: list[InputLine] = []
    block_bytes = 0
    for raw_line in read_raw_lines(file):
        block.append(parse_line(raw_line, recipe))
        block_bytes += len(raw_line or b"")
        if len(block) >= LINES_AT_ONCE or block_bytes >= BYTES_AT_ONCE:
            yield block
            block, block_bytes = [], 0
    if block:
        yield block


def read_raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines that are not blank, and None for one that is too long.

    A byte order mark at the start is skipped.
    """
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
    """Return how many lines of the file are answered."""
    with path.open("rb") as file:
        return sum(1 for _ in read_raw_lines(file))


def parse_line(raw_line: bytes | None, recipe: Recipe) -> InputLine:
    """Return the input line, with its problem if it has one. Never raises.

    raw_line: the line as `read_raw_lines` yields it.
    recipe: the recipe, which says what fields a line needs.
    """
    if raw_line is None:
        return InputLine({}, f"The line is longer than {MAX_LINE_BYTES} bytes")
    content = _parse_object(raw_line)
    for name in recipe.input_fields:
        if name in content:
            content[name] = _convert_id(content[name])
    if not all(_is_text(content.get(name)) for name in recipe.input_fields):
        fields = ", ".join(recipe.input_fields)
        return InputLine(content, f"Required fields for the provided recipe are {fields}")
    return InputLine(content)


def _parse_object(raw_line: bytes) -> dict[str, Any]:
    """Return the line's JSON object, or an empty one if the output could not repeat it.

    It could not if the line is not an object, or has NaN or lone surrogates in it.
    """
    try:
        content = json.loads(raw_line.decode())
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _convert_id(value: Any) -> Any:
    """Return an id as text, since some programs write ids as numbers.

    Other values are returned unchanged.
    """
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
