"""Servers and daemons that a test starts, and stops with everything that they started."""

from __future__ import annotations

import contextlib
import os
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


@dataclass(frozen=True)
class Started:
    """A process of this test, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, look: Callable[[], Found | None], what: str, *, timeout: float) -> Found:
        """What `look` finds, as soon as it finds something; an AssertionError with the log if it
        does not in time, or if the process ends before."""
        deadline = time.monotonic() + timeout
        while (found := look()) is None:
            said = f"\n{self.log.read_text(errors='replace')[-5000:]}"
            assert self.process.poll() is None, f"ended before {what}:{said}"
            assert time.monotonic() < deadline, f"no {what} in {timeout:g} s:{said}"
            time.sleep(0.2)
        return found


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
    """Ports that nothing listens on; with `beside`, neither on the one so much higher."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            taken = held.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            port = int(taken.getsockname()[1])
            if beside:
                port -= beside if port > 65535 - beside else 0
                try:
                    for other in (port, port + beside):
                        if other != taken.getsockname()[1]:
                            held.enter_context(socket.socket()).bind(("127.0.0.1", other))
                except OSError:
                    continue
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
