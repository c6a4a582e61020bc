"""Ends a call at one of its durable writes, as if the process had ended there, at each in turn.

A durable write changes what another process finds: a file that gets its name or goes, an object
that is put or deleted in a bucket. A process that ends right after a write leaves the same as one
that ends before the next write, so "before each" covers both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import obstore
from botocore.httpsession import URLLib3Session

from batchrec_dagster_tests.guard.builders import Project

# What Python's audit hooks call the changes of names in a folder.
_FILE_EVENTS = frozenset({"os.rename", "os.link", "os.remove"})
_OBJECT_CALLS = ("put", "delete", "copy", "rename")
_HTTP_WRITES = frozenset({"PUT", "DELETE"})
_STOPS_BEFORE_WRITES = f"""
import os, signal, sys
from batchrec_dagster.cli import main

def stop(event, arguments):
    if event in {set(_FILE_EVENTS)}:
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(stop)
main()
"""


class CrashError(BaseException):
    """Stands for the end of the process: no part of batchrec can catch it."""


@dataclass
class Crash:
    """What came of a block in which the process was to end."""

    write: int
    """The number of the write, from 0, that no longer happens."""
    folder: Path | None
    """Only files below it count; None if none do, and objects in a bucket alone count."""
    writes: list[str] = field(default_factory=list)
    """The writes until then, and the one that did not happen."""
    has_happened: bool = False
    _thread: int = field(default_factory=threading.get_ident, repr=False)

    def before_write(self, name: str) -> None:
        """Count a write. Raises CrashError for this one, and for all later ones.

        Other threads are a server's, such as the embedded Personalize, which lives on.
        """
        if threading.get_ident() != self._thread:
            return
        if not self.has_happened:
            self.writes.append(name)
        self.has_happened = len(self.writes) > self.write
        if self.has_happened:
            raise CrashError(f"the process ended before {self.writes[-1]}")


_active: Crash | None = None
_is_hook_installed = False


@contextmanager
def crash_at(write: int, folder: Path | None = None) -> Iterator[Crash]:
    """A block that ends before its durable write number `write`, from 0, if it gets there.

    folder: where the files are that count. Objects in a bucket always do.
    """
    global _active
    _install_hook()
    crash = Crash(write, folder)
    with ExitStack() as patches:
        for name in _OBJECT_CALLS:
            call = getattr(obstore, name)
            patches.enter_context(patch.object(obstore, name, _count_calls(crash, name, call)))
        send = URLLib3Session.send
        patches.enter_context(patch.object(URLLib3Session, "send", _count_requests(crash, send)))
        _active = crash
        try:
            yield crash
        except CrashError:
            assert crash.has_happened
        finally:
            _active = None


def crash_at_each_write(
    call: Callable[[], object], folder: Path | None = None, *, every: int = 1
) -> Iterator[Crash]:
    """Make the call end before its first write, then before its second, until it comes to its end.

    The crash of each is yielded right after it. What the call starts from is for the caller to
    restore in between; or else each call continues where the one before ended.
    every: one of this many writes is tried.
    """
    write = 0
    while True:
        with crash_at(write, folder) as crash:
            call()
        if not crash.has_happened:
            return
        yield crash
        write += every


def kill_when(is_time: Callable[[], bool], project: Project, command: Sequence[str]) -> None:
    """Start a command in the project, and SIGKILL it with all its processes once it is time.

    For what lasts: a command is at its end before this process looks again, where both are busy.
    """
    program = str(Path(sys.executable).parent / command[0])
    log = project.root / "killed.log"
    process = _start(project, [program, *command[1:]], log)
    while not is_time():
        assert process.poll() is None, log.read_text()
        time.sleep(0.005)
    _kill(process, log)


def kill_before_write_when(
    is_time: Callable[[], bool], project: Project, arguments: Sequence[str]
) -> None:
    """Start `batchrec` in the project, and SIGKILL it before the first write at which it is time.

    It stops before each of its durable writes of files, until it is told to go on. Only the
    command's own process does, so its writes have to be there.
    """
    log = project.root / "killed.log"
    process = _start(project, [sys.executable, "-c", _STOPS_BEFORE_WRITES, *arguments], log)
    while True:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), log.read_text()
        if is_time():
            break
        os.kill(process.pid, signal.SIGCONT)
    _kill(process, log)


def _start(project: Project, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            cwd=project.root,
            env=project.process_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _kill(process: subprocess.Popen[bytes], log: Path) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text()


def _count_calls(crash: Crash, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def count(store: Any, *arguments: Any, **options: Any) -> Any:
        crash.before_write(f"{name} {arguments[0]}")
        return call(store, *arguments, **options)

    return count


def _count_requests(crash: Crash, send: Callable[..., Any]) -> Callable[..., Any]:
    def count(session: Any, request: Any) -> Any:
        if request.method in _HTTP_WRITES:
            crash.before_write(f"{request.method} {request.url}")
        return send(session, request)

    return count


def _install_hook() -> None:
    """Python keeps such a hook until its end. Outside of a block it does nothing."""
    global _is_hook_installed
    if not _is_hook_installed:
        _is_hook_installed = True
        sys.addaudithook(_see_event)


def _see_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _FILE_EVENTS or _active is None or _active.folder is None:
        return
    path = os.fspath(arguments[0] if event == "os.remove" else arguments[1])
    if isinstance(path, str) and path.startswith(f"{_active.folder}{os.sep}"):
        _active.before_write(f"{event} {path}")
