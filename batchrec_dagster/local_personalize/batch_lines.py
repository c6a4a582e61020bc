"""The lines of batch jobs, read and answered in bounded memory.

Each input line that is not blank gets an output line, even if it cannot be answered.

Source: developer guide, "Preparing input data for batch recommendations".
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_LINE_BYTES = 1 << 20
"""The length of the longest line that is answered."""

# The limits of a block of lines that is held in memory.
LINES_AT_ONCE = 200_000
BYTES_AT_ONCE = 64 << 20


@dataclass(frozen=True)
class InputLine:
    """An input line of a batch job, as far as it could be read."""

    content: dict[str, Any]
    """The line's JSON object, which the output line repeats."""
    subject: str = ""
    """The user, the item or the item attributes that the line asks for."""
    problem: str | None = None
    """The reason why the line cannot be answered; None if it can be."""


AnswerLines = Callable[[Sequence[InputLine]], Iterator[str]]
"""A function that yields an output line for each input line, in order.

If an input line has a problem, its output line has an error.
"""


def answer_file(
    source: Path,
    target: Path,
    input_field: str,
    answer_lines: AnswerLines,
    count: Callable[[int], None],
) -> None:
    """Write one output line to `target` for each line of `source`, a block at a time.

    input_field: the field of an input line that names the user, the item or the item attributes.
    count: called with 1 after each output line. It may raise an exception to stop the job.
    """
    with (
        source.open("rb") as source_file,
        target.open("w", encoding="utf-8", newline="\n") as target_file,
    ):
        for block in read_blocks(source_file, input_field):
            for output_line in answer_lines(block):
                target_file.write(output_line)
                target_file.write("\n")
                count(1)


def read_blocks(file: BinaryIO, input_field: str) -> Iterator[list[InputLine]]:
    """Yield the lines of a file, in blocks that fit into memory."""
    block: list[InputLine] = []
    block_bytes = 0
    for raw_line in read_raw_lines(file):
        block.append(parse_line(raw_line, input_field))
        block_bytes += len(raw_line or b"")
        if len(block) >= LINES_AT_ONCE or block_bytes >= BYTES_AT_ONCE:
            yield block
            block, block_bytes = [], 0
    if block:
        yield block


def read_raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines that are not blank, and None in place of a line that is too long.

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
    """Return the number of lines in the file that get an output line."""
    with path.open("rb") as file:
        return sum(1 for _ in read_raw_lines(file))


def parse_line(raw_line: bytes | None, input_field: str) -> InputLine:
    """Parse an input line. A bad line is returned with its problem; nothing is raised.

    raw_line: a line that `read_raw_lines` yields; None for a line that is too long.
    """
    if raw_line is None:
        return InputLine({}, problem=f"The line is longer than {MAX_LINE_BYTES} bytes")
    content = _parse_object(raw_line)
    subject = content.get(input_field)
    if isinstance(subject, int) and not isinstance(subject, bool):
        # Some programs write ids as numbers.
        subject = content[input_field] = str(subject)
    if not isinstance(subject, str) or not subject:
        problem = f"Required fields for the provided recipe are {input_field}"
        return InputLine(content, problem=problem)
    return InputLine(content, subject)


def _parse_object(raw_line: bytes) -> dict[str, Any]:
    """Return the line's JSON object, or an empty object if the output could not repeat it.

    The output cannot repeat a line that is not a JSON object in UTF-8, or that contains NaN,
    infinity or lone surrogates.
    """
    try:
        content = json.loads(raw_line.decode())
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
