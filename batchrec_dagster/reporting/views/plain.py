"""Plain text for people: safe for a terminal, in lines that fit, with commands to copy."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

# The Unicode categories of control, format, surrogate and private characters, and of separators of
# lines and paragraphs. Zero-width joiners are kept, because emoji and Persian words need them.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
# A command in a message: `batchrec run shop --train`.
_COMMAND = re.compile(r"`(batchrec [^`]+)`")
# A stand-in for a space at which a line may not break.
_UNBREAKABLE = "\0"
# The end of a path to a declaration. Such paths are shown relative to the working folder.
_DECLARATION = r"(?=\S*defs\.yaml)"


def escape_invisible(text: str) -> str:
    r"""Return the text with invisible characters written as escape sequences, such as \x1b."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
        else character
        for character in text
    )


def escape_line(text: str) -> str:
    """Return the text in one line, with invisible characters written as escape sequences."""
    return escape_invisible(" ".join(text.split()))


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines, with their cells aligned in columns."""
    safe = [[escape_invisible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in safe
    )


def format_time(time: datetime) -> str:
    """Return the time to the minute, such as `2026-01-31 09:05`."""
    return f"{time:%Y-%m-%d %H:%M}"


def format_program(folder: Path | None = None) -> str:
    """Return the command that calls this environment's batchrec from a folder.

    folder: None for the working folder.
    """
    path = Path(sys.executable).parent / "batchrec"
    on_path = shutil.which(path.name) == str(path)
    return path.name if on_path else shlex.quote(str(shorten_path(path, folder)))


def format_show_arguments(user: str, pipeline: str | None = None) -> str:
    """Return the arguments of `batchrec` that show this user.

    pipeline: the only pipeline to look in; None for all pipelines.
    """
    option = "" if pipeline is None else f"--pipeline {pipeline} "
    return f"show {option}{'-- ' if user.startswith('-') else ''}{shlex.quote(user)}"


def shorten_path(path: Path, folder: Path | None = None) -> Path:
    """Return the path relative to a folder, if the path is below the folder.

    folder: None for the working folder.
    """
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def shorten_location(location: str) -> str:
    """Return a file's path relative to the working folder, if the file is below that folder.

    An address in S3 is returned unchanged.
    """
    return location if location.startswith("s3://") else str(shorten_path(Path(location)))


def shorten_declarations(text: str) -> str:
    """Return the text with the paths of declarations relative to the working folder."""
    return re.sub(re.escape(f"{Path.cwd()}/") + _DECLARATION, "", text)


def get_terminal_width() -> int | None:
    """Return the width of the terminal in columns; None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrap(text: str, width: int | None, *, start: str = "", hang: int = 2) -> str:
    """Return `start` and the text in lines that fit, with words, paths and commands kept whole.

    In commands in backticks, `batchrec` is replaced by the command that starts it here.

    width: the columns of the terminal; None for a pipe, where the text is one line.
    hang: the indentation in columns of the lines after the first.
    """

    def name_program(match: re.Match[str]) -> str:
        command = match[1].replace("batchrec", format_program(), 1)
        return f"`{command.replace(' ', _UNBREAKABLE)}`"

    named = _COMMAND.sub(name_program, text)
    if width is None:
        return f"{start}{named}".replace(_UNBREAKABLE, " ")
    lines = textwrap.wrap(
        named,
        width,
        initial_indent=start,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines or [start]).replace(_UNBREAKABLE, " ")


def fit_terminal(text: str, *, start: str = "", indentation: str = "") -> str:
    """Return a message with each of its lines wrapped to fit the terminal.

    In a terminal, declarations are named by their path from the working folder. In a pipe, the
    lines are only indented.

    start: the text that will be printed before the message, and takes room in the first line.
    indentation: the text at the start of each line.
    """
    width = get_terminal_width()
    if width is None:
        return "\n".join(f"{indentation}{line}" for line in text.splitlines())
    lines = [
        wrap(line, width, start=indentation, hang=len(indentation) + 2)
        for line in f"{start}{shorten_declarations(text)}".splitlines()
    ]
    # The caller prints `start` itself. A space follows it, unless the first word of the message was
    # too long for the first line.
    return "\n".join(lines).removeprefix(f"{indentation}{start.rstrip()}").removeprefix(" ")
