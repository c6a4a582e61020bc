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

Found = TypeVar("Found")
# Not of a test's seed: two that start servers at once would choose alike.
_CHANCE = random.SystemRandom()
_given: set[int] = set()
# Workers of pytest-xdist draw from ports of their own: between the look and the start of a server
# another could take the same.
_WORKERS = 8
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS


@dataclass(frozen=True)
class Started:
    """A process of this test, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(
        self, look: Callable[[], Found | None], what: str, *, timeout: float, every: float = 0.2
    ) -> Found:
        """What `look` finds, as soon as it finds something; an AssertionError with the log if it
        does not in time, or if the process ends before. every: seconds between two looks."""
        deadline = time.monotonic() + timeout
        while (found := look()) is None:
            said = f"\n{self.log.read_text(errors='replace')[-5000:]}"
            assert self.process.poll() is None, f"ended before {what}:{said}"
            assert time.monotonic() < deadline, f"no {what} in {timeout:g} s:{said}"
            time.sleep(every)
        return found

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
    """Runs the command in the background, and stops it at the end with all its descendants, by
    force what has not ended of itself in so many seconds."""
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
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = _CHANCE.randrange(11_000 + _WORKER, 22_000, _WORKERS)
            wanted = {port, port + beside}
            if not wanted & _given:
                with contextlib.suppress(OSError):
                    for one in wanted:
                        held.enter_context(socket.socket()).bind(("127.0.0.1", one))
                    _given.update(wanted)
                    found.append(port)
    return found


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    # What it started is in its group, whether it has ended or not.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
