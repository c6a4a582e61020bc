"""Servers and daemons that a test starts, and stops together with all their descendants."""

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
# Ports are not drawn with a test's seed: two tests with the same seed that start servers at the
# same time would choose the same ports.
_CHANCE = random.SystemRandom()
_taken_ports: set[int] = set()
# Each worker of pytest-xdist draws from a separate set of ports. Otherwise two workers could choose
# the same port before the server of either starts.
_WORKERS = 8
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS


@dataclass(frozen=True)
class Started:
    """A process that a test started, and the log file of its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(
        self, find: Callable[[], Result | None], what: str, *, timeout: float, every: float = 0.2
    ) -> Result:
        """Call `find` until its result is not None, and return the result.

        Raises AssertionError with the log after the timeout, or if the process ends earlier.

        what: the name of the result in the message of a failure.
        timeout: the maximum number of seconds to wait.
        every: the number of seconds between two calls of `find`.
        """
        deadline = time.monotonic() + timeout
        while (result := find()) is None:
            log = f"\n{self.log.read_text(errors='replace')[-5000:]}"
            assert self.process.poll() is None, f"ended before {what}:{log}"
            assert time.monotonic() < deadline, f"no {what} in {timeout:g} s:{log}"
            time.sleep(every)
        return result

    def kill(self) -> None:
        """Kill the process and its descendants with SIGKILL, and wait until the process is gone.

        Its ports are free after that.
        """
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
    """Run a command in the background, and stop it with all its descendants after the block.

    folder: the working directory.
    log: the file for the command's output.
    grace: the number of seconds that the command has to end before it is killed.
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
    """Find ports that nothing listens on.

    No port is returned twice. Ports for outgoing connections, on Linux from 32768 on, are not
    returned either: such a connection could take a server's port before the server is started
    again.

    count: the number of ports.
    beside: the distance to a second port that must be free, too; 0 for none.
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
    # The processes that it started are in its group even after it has ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
