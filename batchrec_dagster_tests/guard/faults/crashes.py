"""Crashes of a call before one of its durable writes, as if the process had ended there.

A durable write changes the state that another process finds: a file gets its name or is deleted, or
an object is put or deleted in a bucket. A process that ends right after a write leaves the same
state as a process that ends before the next write. So crashes before each write cover both cases.
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

# The names of Python's audit events for changes of file names in a folder.
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
    """An exception that stands for the end of the process. No part of batchrec catches it."""


@dataclass
class Crash:
    """The planned crash of a block, and whether it has happened."""

    write: int
    """The number of the first write that does not happen, from 0."""
    folder: Path | None
    """The folder of the files that count; None if only objects in buckets count."""
    writes: list[str] = field(default_factory=list)
    """The names of the writes so far. After the crash, the last name is the prevented write's."""
    has_happened: bool = False
    _thread: int = field(default_factory=threading.get_ident, repr=False)

    def before_write(self, name: str) -> None:
        """Count a write, and raise CrashError for the planned write and all later ones.

        Writes of other threads do not count: these threads belong to a server that lives on, such
        as the embedded Personalize.
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
    """End the block before its durable write number `write`, if the block gets there.

    write: the number of the write, from 0.
    folder: the folder of the files that count. Objects in buckets always count.
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
    """Make the call crash before its first write, then before its second, until it succeeds.

    Yield each crash right after it happens. The caller may then restore the state from which the
    call starts; otherwise the next call continues where the last call ended.

    folder: as in `crash_at`.
    every: the distance between two tried writes; 1 tries every write.
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

    This is for long commands. On a busy machine, a short command ends before this process looks
    again.
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

    The command stops before each of its durable writes of files, until it is told to go on. Only
    the command's main process stops, so that process has to do the writes.
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
    """Install the audit hook once.

    Python cannot remove an audit hook. Outside of a block of `crash_at`, the hook does nothing.
    """
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
