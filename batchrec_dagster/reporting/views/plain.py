"""Plain text for people: safe for a terminal, in lines that fit it, with commands to copy."""

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
# It stands for a space in which no line may break.
_UNBREAKABLE = "\0"
# A path to a declaration, which is shown from the working folder.
_DECLARATION = r"(?=\S*defs\.yaml)"


def escape_invisible(text: str) -> str:
    """The text with invisible characters written as escape sequences, such as \\x1b."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
        else character
        for character in text
    )


def escape_line(text: str) -> str:
    """The text in one line, with invisible characters written as escape sequences."""
    return escape_invisible(" ".join(text.split()))


def align(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines, with their cells below each other."""
    safe = [[escape_invisible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in safe
    )


def format_time(time: datetime) -> str:
    """The time to the minute, as `2026-01-31 09:05`."""
    return f"{time:%Y-%m-%d %H:%M}"


def format_program(folder: Path | None = None) -> str:
    """How to call batchrec of this environment from the folder, by default the working one."""
    path = Path(sys.executable).parent / "batchrec"
    on_path = shutil.which(path.name) == str(path)
    return path.name if on_path else shlex.quote(str(shorten_path(path, folder)))


def format_show_arguments(user: str, pipeline: str | None = None) -> str:
    """The arguments with which batchrec shows this user, with a pipeline in its lists alone."""
    option = "" if pipeline is None else f"--pipeline {pipeline} "
    return f"show {option}{'-- ' if user.startswith('-') else ''}{shlex.quote(user)}"


def shorten_path(path: Path, folder: Path | None = None) -> Path:
    """The path relative to the folder, by default the working one, if it is below it."""
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def shorten_location(location: str) -> str:
    """A file's path from the working folder, if it is below it; the address of one in S3."""
    return location if location.startswith("s3://") else str(shorten_path(Path(location)))


def shorten_declarations(text: str) -> str:
    """The text with the paths of declarations below the working folder relative to it."""
    return re.sub(re.escape(f"{Path.cwd()}/") + _DECLARATION, "", text)


def get_terminal_width() -> int | None:
    """Columns of the terminal; None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrap(text: str, width: int | None, *, start: str = "", hang: int = 2) -> str:
    """The text behind `start`, in lines that fit. Words, paths and commands stay whole.

    Commands in backticks call batchrec as it has to be called here.

    width: the columns of the terminal; None for a pipe, in which the text is one line.
    hang: by how many columns the second line and those after it are indented.
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
    """The lines of a message, each in lines that fit the terminal. In a pipe they stay as they are.

    Declarations are named by their path from the working folder.

    start: what will be printed in front of the text, and takes room in its first line.
    indentation: what each line starts with.
    """
    width = get_terminal_width()
    if width is None:
        return "\n".join(f"{indentation}{line}" for line in text.splitlines())
    lines = [
        wrap(line, width, start=indentation, hang=len(indentation) + 2)
        for line in f"{start}{shorten_declarations(text)}".splitlines()
    ]
    # A long first word begins a line of its own, without a space in front of it.
    return "\n".join(lines).removeprefix(f"{indentation}{start.rstrip()}").removeprefix(" ")
