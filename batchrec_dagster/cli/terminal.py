"""What a message on a terminal needs: batchrec's name there, short paths, how wide it is."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def format_program(folder: Path | None = None) -> str:
    """How to call batchrec of this environment from the folder, by default the working one."""
    path = Path(sys.executable).parent / "batchrec"
    on_path = shutil.which(path.name) == str(path)
    return path.name if on_path else shlex.quote(str(shorten_path(path, folder)))


def shorten_path(path: Path, folder: Path | None = None) -> Path:
    """The path relative to the folder, by default the working one, if it is below it."""
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def get_terminal_width() -> int | None:
    """Columns of the terminal; None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
