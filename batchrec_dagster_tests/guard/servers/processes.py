"""Servers and daemons that a test starts, and stops with everything that they started."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
# Not of a test's seed: two that start servers at once would choose alike.
_CHANCE = random.SystemRandom()
_taken_ports: set[int] = set()
# Workers of pytest-xdist draw from ports of their own: between the choice and the start of a server
# another could take the same.
_WORKERS = 8
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS


@dataclass(frozen=True)
class Started:
    """A process of this test, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(
        self, find: Callable[[], Result | None], what: str, *, timeout: float, every: float = 0.2
    ) -> Result:
        """The first result of `find` that is not None.

        what: names the result in the message of a failure.
        timeout: the number of seconds after which it fails.
        every: the number of seconds between two calls of `find`.
        Raises AssertionError with the log after that time, or if the process ends before.
        """
        deadline = time.monotonic() + timeout
        while (result := find()) is None:
            log = f"\n{self.log.read_text(errors='replace')[-5000:]}"
            assert self.process.poll() is None, f"ended before {what}:{log}"
            assert time.monotonic() < deadline, f"no {what} in {timeout:g} s:{log}"
            time.sleep(every)
        return result

    def kill(self) -> None:
        """SIGKILL, to all its descendants too; returns when it is gone, and its ports are free."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    *,
    grace: float = 10,
) -> Iterator[Started]:
    """Runs the command in the background, and stops it at the end with all its descendants.

    grace: the number of seconds after which what has not ended is killed.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Started(process, log)
    finally:
        _stop(process, grace)


def free_ports(count: int, *, beside: int = 0) -> list[int]:
    """Ports that nothing listens on; with `beside`, neither on the one so much higher.

    None is given twice, nor is one that a connection going out may get, on Linux from 32768 on:
    a server that is started again would find its port taken.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as sockets:
        while len(ports) < count:
            port = _CHANCE.randrange(11_000 + _WORKER, 22_000, _WORKERS)
            pair = {port, port + beside}
            if not pair & _taken_ports:
                with contextlib.suppress(OSError):
                    for number in pair:
                        sockets.enter_context(socket.socket()).bind(("127.0.0.1", number))
                    _taken_ports.update(pair)
                    ports.append(port)
    return ports


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    # What it started is in its group, whether it has ended or not.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
