"""What a message on a terminal needs: batchrec's name there, short paths, how wide it is."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

# A path to a declaration, which is shown from the working folder.
_DECLARATION = r"(?=\S*defs\.yaml)"


def format_program(folder: Path | None = None) -> str:
    """How to call batchrec of this environment from the folder, by default the working one."""
    path = Path(sys.executable).parent / "batchrec"
    on_path = shutil.which(path.name) == str(path)
    return path.name if on_path else shlex.quote(str(shorten_path(path, folder)))


def shorten_path(path: Path, folder: Path | None = None) -> Path:
    """The path relative to the folder, by default the working one, if it is below it."""
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def shorten_declarations(text: str) -> str:
    """The text with the paths of declarations below the working folder relative to it."""
    return re.sub(re.escape(f"{Path.cwd()}/") + _DECLARATION, "", text)


def get_terminal_width() -> int | None:
    """Columns of the terminal; None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit_terminal(text: str, *, indentation: str = "", start: str = "") -> str:
    """The text, with each line that is too long in lines that fit. In a pipe it stays as it is.

    Declarations are named by their path from the working folder. A command in backticks stays in
    one line.

    indentation: what each line of the text starts with.
    start: what will be printed in front of the text, and takes room in its first line.
    """
    from batchrec_dagster.reporting.messages import format_message

    width = get_terminal_width()
    if width is None:
        return "\n".join(f"{indentation}{line}" for line in text.splitlines())
    text = shorten_declarations(text)
    program = format_program()
    lines = [
        format_message(line, width, program=program, indentation=indentation)
        for line in f"{start}{text}".splitlines()
    ]
    if not start:
        return "\n".join(lines)
    # A long first word begins a line of its own, without a space in front of it.
    return "\n".join(lines).removeprefix(f"{indentation}{start.rstrip()}").lstrip(" ")
