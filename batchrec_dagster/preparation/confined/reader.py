"""The parent's side of the child process: starting it, sending it files, and explaining its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError
from batchrec_dagster.preparation.sources.limits import (
    MAX_FILE_MEMORY_GB,
    MAX_FILE_MINUTES,
    LimitError,
    Limits,
)

CHILD = "batchrec_dagster.preparation.confined.child"
# The environment variables that the child needs: the places of programs, libraries, temporary files
# and time zones, and the language. The child gets no other variable, so it has no credentials.
PASSED_VARIABLES = (
    *("PATH", "HOME", "TMPDIR", "TZ", "TZDIR", "LANG", "LC_ALL", "LC_CTYPE"),
    *(
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONDONTWRITEBYTECODE",
        "LD_LIBRARY_PATH",
        "OPENBLAS_CORETYPE",
    ),
)
# Each thread and each of malloc's arenas reserves address space, which counts as memory.
FEW_THREADS = {
    "MALLOC_ARENA_MAX": "2",
    "POLARS_MAX_THREADS": "2",
    "RAYON_NUM_THREADS": "2",
    "TOKIO_WORKER_THREADS": "2",
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "1",
}
# A child that waits instead of computing is killed after this multiple of the allowed CPU time.
WAITING_TIMES = 2
MAX_ANSWER_BYTES = 64 * 1024
STDERR_BYTES = 4096
_OUT_OF_MEMORY = ("memory allocation of", "out of memory", "bad_alloc", "cannot allocate memory")


class ConfinedReader:
    """A converter of foreign files in a child process, which starts when the first file comes.

    Use the reader as a context manager around all files of a step: starting the child takes longer
    than reading an ordinary file. Do not use it in several threads at once.
    """

    def __init__(self) -> None:
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def convert(
        self, form: str, source: Path, target: Path, *, part: str | None = None, packed: int
    ) -> int:
        """Convert the file to CSV, JSON Lines or Parquet, and write the result to `target`.

        form: the name of the format, as in CONVERSIONS.
        part: the wanted part of the file, such as a sheet; None if the file has no parts.
        packed: the size in bytes of the file as it came. The limit on the size of the result
        depends on it.

        Returns the number to add to a line number of the result in order to find the line in the
        file.

        Raises FileError if the file cannot be read. Raises its subclass DamagedFileError if the
        file is damaged. Raises its subclass LimitError if reading the file takes more memory, disk
        or time than the limits of the environment allow, or if one of these limits is not a number
        above 0.
        """
        if self._child is None:
            self._child = _Child(Limits.from_environment())
        request = {
            "format": form,
            "source": str(source.absolute()),
            "target": str(target.absolute()),
            "part": part,
            "packed": packed,
        }
        try:
            answer = self._child.ask(request)
        except BaseException:
            # The child may still be working on an answer that nobody would read.
            self._end()
            raise
        if "error" in answer:
            errors = {kind.__name__: kind for kind in (FileError, DamagedFileError, LimitError)}
            raise errors[answer["kind"]](answer["error"])
        shift: int = answer["shift"]
        return shift

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """The running child process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._overdue = False
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
        self._process = subprocess.Popen(
            # -P keeps Python from importing files of the working directory.
            [sys.executable, "-P", "-m", CHILD, json.dumps(vars(limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment | FEW_THREADS,
            cwd="/",
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the child's answer.

        Raises LimitError or FileError if the request kills the child.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The limit on CPU time never ends a child that sleeps.
        watchdog = threading.Timer(WAITING_TIMES * self._limits.file_seconds, self._stop_waiting)
        watchdog.daemon = True
        watchdog.start()
        try:
            # If the child has died, there is no answer.
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline(MAX_ANSWER_BYTES)
        finally:
            watchdog.cancel()
        if not line.endswith(b"\n"):
            raise self._explain_death(request["packed"])
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Kill the process, which may be in the middle of a file."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            # The rest of the buffer cannot be written to a broken pipe.
            with suppress(OSError):
                assert stream is not None
                stream.close()
        self._process.wait()
        self._stderr.close()

    def _stop_waiting(self) -> None:
        self._overdue = True
        self._process.kill()

    def _explain_death(self, packed: int) -> FileError:
        """Return an error that says in one line why the child ended."""
        code = self._process.wait()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - STDERR_BYTES))
        last_words = self._stderr.read().decode(errors="replace").lower()
        if code == -signal.SIGXFSZ:
            return self._limits.build_size_error(packed)
        if code == -signal.SIGXCPU or self._overdue:
            return LimitError(
                f"reading it takes longer than the {self._limits.file_seconds / 60:g} minutes of"
                f" {MAX_FILE_MINUTES}: if it is real data, set it higher, or write it as CSV"
            )
        if code == -signal.SIGABRT and any(words in last_words for words in _OUT_OF_MEMORY):
            return build_memory_error(self._limits)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return FileError(
            f"the library that reads it crashed ({how}), or needed more than the"
            f" {self._limits.file_memory / 1e9:g} GB of memory that {MAX_FILE_MEMORY_GB} allows:"
            " write the file again, or as CSV"
        )


def build_memory_error(limits: Limits) -> LimitError:
    """Return the error of a file that needs more memory than the limits allow."""
    return LimitError(
        f"reading it takes more than the {limits.file_memory / 1e9:g} GB of memory that"
        f" {MAX_FILE_MEMORY_GB} allows: if it is real data, set it higher, or write it as CSV"
    )
