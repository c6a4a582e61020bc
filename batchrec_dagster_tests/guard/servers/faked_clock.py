"""Runs batchrec's commands at any time of a year, each in a process of its own.

A server under libfaketime imports everything once. Each command is a process that is forked from
it, at the time that the test asks for: it takes no seconds to start, and its memory is new. The
time of files is that of the real clock.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

# libfaketime of Debian's package libfaketime.
LIBRARIES = ("libfaketimeMT.so.1", "libfaketime.so.1")
FOLDERS = ("/usr/lib/{}-linux-gnu/faketime", "/usr/lib/faketime", "/usr/lib64/faketime")
LIBRARY_SETTINGS = {
    # Or it looks for another time only every ten seconds.
    "FAKETIME_NO_CACHE": "1",
    # Threads wait for each other by this clock. With another one, or with the fix, they spin.
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    "NO_FAKE_STAT": "1",
}
# The environment variable that names the server's socket, which commands use to start others.
SERVER = "FAKED_CLOCK_SERVER"
# The environment variable that names the object after whose writing the process is killed.
KILL_AFTER = "FAKED_CLOCK_KILL_AFTER"
BATCHREC = "batchrec"
# What commands import, most of it late.
IMPORTS = (
    *("alembic.command", "pygments.lexers", "rich.live", "scipy.stats", "tomlkit"),
    *("upath.implementations.local", "jinja2.nativetypes", "dagster._core.instance.factory"),
    *("dagster._cli", "dagster._core.storage.event_log", "dagster._core.workspace.autodiscovery"),
    *("dagster._core.storage.runs", "dagster._core.storage.schedules"),
    *("dagster._core.executor.in_process", "dagster._core.storage.local_compute_log_manager"),
    *("dagster._daemon.controller", "batchrec_dagster.definitions", "batchrec_dagster.cli"),
    *(
        "batchrec_dagster.cli.readiness.deployment",
        "batchrec_dagster.local_personalize.api.service",
    ),
    *("batchrec_dagster.steps.experiments", "batchrec_dagster.pipeline.report"),
    *("batchrec_dagster.reporting.insight.person", "batchrec_dagster.cli.run_stages"),
    *("batchrec_dagster.steps.lists", "batchrec_dagster.samples.generator"),
    "batchrec_dagster.steps.outcomes",
)


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    """Its exit code, or less than 0: the signal that killed it."""
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that it printed, for the message of a failed test."""
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


@dataclass
class FakedClock:
    """The server's client."""

    address: str
    folder: Path
    """The working folder of the commands."""
    environment: Mapping[str, str]
    now: datetime
    """The time at which the next command starts. It goes on from there for each command."""

    def run(self, *arguments: str, kill_after: str = "", code: int | None = 0) -> Ended:
        """Run `batchrec` with these arguments.

        kill_after: the end of the key of an object. When the object is written, the process that
            has done so is killed.
        code: the expected exit code; None for any.
        """
        environment = {**self.environment, **LIBRARY_SETTINGS, SERVER: self.address}
        if kill_after:
            environment[KILL_AFTER] = kill_after
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = _Forked(
                [BATCHREC, *arguments],
                files=(stdout, stderr),
                cwd=self.folder,
                env=environment,
                offset=self.now.timestamp() - time.time(),
            )
            ended = process.wait()
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode())
        result = Ended(ended, *texts)
        assert code is None or result.code == code, f"batchrec {arguments}: {result.text}"
        return result


def find_library() -> Path | None:
    """libfaketime; None where it is not installed."""
    for folder in FOLDERS:
        for library in LIBRARIES:
            path = Path(folder.format(os.uname().machine)) / library
            if path.exists():
                return path
    return None


@contextmanager
def faked_clock(
    folder: Path, now: datetime, environment: Mapping[str, str]
) -> Iterator[FakedClock]:
    """The clock, with a server that ends with the block. Skips the test without libfaketime."""
    library = find_library()
    if library is None:
        pytest.skip("there is no libfaketime: apt install faketime")
    with tempfile.TemporaryDirectory() as place:
        address = f"{place}/socket"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "BATCHREC_", "DAGSTER_"))
        }
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, address],
            env={
                **inherited,
                "LD_PRELOAD": str(library),
                "FAKETIME": "+0",
                **LIBRARY_SETTINGS,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "the server of the faked clock ended"
            yield FakedClock(address, folder, {**inherited, **environment}, now)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class _Forked:
    """What a test and batchrec need of `subprocess.Popen`, for a process that the server forks."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        files: tuple[Any, Any],
        cwd: Path,
        env: Mapping[str, str],
        offset: float,
    ) -> None:
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(env[SERVER])
        request = {
            "arguments": [*arguments],
            "folder": str(cwd),
            "environment": dict(env),
            "offset": offset,
        }
        descriptors = [file.fileno() for file in files]
        socket.send_fds(self._socket, [b"!"], descriptors)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._socket.makefile()
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0.001)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._socket.settimeout(timeout)
            try:
                self.returncode = int(self._socket.recv(16))
            except TimeoutError:
                raise subprocess.TimeoutExpired("", timeout or 0) from None
            finally:
                if self.returncode is not None:
                    self._socket.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _start(arguments: Sequence[str], **options: Any) -> _Forked:
    """As `subprocess.Popen`, for Dagster's command."""
    stdout = options.get("stdout", sys.stdout)
    stderr = options.get("stderr", sys.stderr)
    return _Forked(
        # Without the name of Python's program and -m.
        arguments[2:],
        files=(stdout, stdout if stderr == subprocess.STDOUT else stderr),
        cwd=Path.cwd(),
        env=os.environ,
        offset=float(os.environ["FAKETIME"]),
    )


def _run_and_wait(arguments: Sequence[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run`, for Dagster's command."""
    return subprocess.CompletedProcess(arguments, _start(arguments).wait())


# What commands that start Dagster's have in place of the module `subprocess`.
FORKING = SimpleNamespace(
    Popen=_start,
    run=_run_and_wait,
    DEVNULL=subprocess.DEVNULL,
    STDOUT=subprocess.STDOUT,
    TimeoutExpired=subprocess.TimeoutExpired,
)
STARTERS = ("batchrec_dagster.cli.watched_job",)


def _serve(address: str) -> None:
    """Fork a process for each command, until this one is killed."""
    for module in IMPORTS:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a process that has threads must not be forked"
    # Or a search for garbage in a child would copy all that it shares with this process.
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            connection, _ = listener.accept()
            # The first child waits for the command, so that the server need not.
            if not os.fork():
                listener.close()
                _fork_command(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _fork_command(connection: socket.socket) -> NoReturn:
    """Run the command that is asked for in another process, and answer with its pid and its end."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if not pid:
        connection.close()
        _become(request, descriptors)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Run the command in this process, which ends with it."""
    code = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ["FAKETIME"] = f"{request['offset']:+.6f}"
        os.chdir(request["folder"])
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
        for name, number in (("stdout", 1), ("stderr", 2)):
            setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115
        random.seed()
        for module in STARTERS:
            vars(sys.modules[module])["subprocess"] = FORKING
        _run_command(request["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_command(arguments: Sequence[str]) -> None:
    sys.argv = [*arguments]
    if arguments[0] == BATCHREC:
        from batchrec_dagster.cli import main

        main(arguments[1:], prog_name=BATCHREC)
    else:
        _die_after_writing(os.environ.get(KILL_AFTER, ""))
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _die_after_writing(key: str) -> None:
    """Let this process be killed once it has written an object whose key ends so."""
    from batchrec_dagster.storage.objects import ObjectStore

    if not key:
        return
    for name in ("put", "copy"):
        write = getattr(ObjectStore, name)

        def write_and_die(store: ObjectStore, first: Any, second: Any, write: Any = write) -> Any:
            result = write(store, first, second)
            if str(first if write.__name__ == "put" else second).endswith(key):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(ObjectStore, name, write_and_die)


if __name__ == "__main__":
    _serve(sys.argv[1])
