"""The child process: takes jobs from its standard input, one JSON object a line, and does them
within limits of the kernel.

It answers with one JSON object a line: `result`, or `error` and `kind`. Before that it may say by
`packed` of how many bytes the next file that it writes is made.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

from batchrec_dagster.preparation.confined.reader import build_memory_error
from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError
from batchrec_dagster.preparation.sources.limits import LimitError, Limits

# Where each job's function is. Modules are imported when their first job comes: each needs other
# libraries.
JOBS = {
    "find_member": "archive_members",
    "list_delta": "delta",
    "open_file": "open_file",
    "read_delta": "delta",
    "write_member": "archive_members",
}
PARENT_WATCHED_SECONDS = 1
REASON_LENGTH = 400


@dataclass(frozen=True)
class ConfinedJob:
    """What a job's function gets besides its arguments."""

    limits: Limits
    """What the job may take."""

    answers: BinaryIO
    """What the parent reads, a message a line."""

    def limit_output(self, packed: int) -> None:
        """Let no file grow larger from now on than what `packed` bytes may unfold to."""
        send(self.answers, {"packed": packed})
        limit_file_size(self.limits.compute_unfolded_bytes(packed))


def main() -> None:
    """Do jobs until standard input ends. The first argument is the limits as JSON."""
    limits = Limits(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    # A library that prints must not get into the answers.
    os.dup2(2, 1)
    _end_with_parent()
    # Python ignores this signal, and C++ libraries report the error in words of their own.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    _set_limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        # macOS maps hundreds of gigabytes into each process, and refuses such a limit.
        _set_limit(resource.RLIMIT_AS, limits.file_memory)
    for line in iter(sys.stdin.buffer.readline, b""):
        send(answers, _answer(json.loads(line), ConfinedJob(limits, answers)))


def _answer(request: dict[str, Any], job: ConfinedJob) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_limit(
        resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + job.limits.file_seconds) + 1
    )
    packed = request["packed"]
    most = (
        job.limits.download_bytes if packed is None else job.limits.compute_unfolded_bytes(packed)
    )
    limit_file_size(most)
    name = request["job"]
    module = importlib.import_module(f"batchrec_dagster.preparation.confined.{JOBS[name]}")
    try:
        return {"result": getattr(module, name)(job, **request["arguments"])}
    except LimitError as error:
        return {"error": str(error), "kind": "limit"}
    except DamagedFileError as error:
        return {"error": str(error), "kind": "damaged"}
    except FileError as error:
        return {"error": str(error), "kind": "file"}
    except MemoryError:
        return {"error": str(build_memory_error(job.limits)), "kind": "limit"}
    except OSError as error:
        return {"error": f"it cannot be read: {error.strerror or error}", "kind": "file"}
    except BaseException as error:
        # Panics of Rust libraries are no Exceptions.
        reason = " ".join(str(error).split())[:REASON_LENGTH] or type(error).__name__
        return {"error": f"it cannot be read ({reason}): write it again", "kind": "file"}


def send(answers: BinaryIO, message: dict[str, Any]) -> None:
    """Write a message to the parent."""
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


def limit_file_size(size: int) -> None:
    """Let the kernel end this process when a file that it writes grows larger."""
    _set_limit(resource.RLIMIT_FSIZE, size)


def _set_limit(which: int, value: int) -> None:
    """Set the limit, or the one that this process was started with if that is lower."""
    _, hard = resource.getrlimit(which)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (most, hard))


def _end_with_parent() -> None:
    """End this process soon after its parent, even one that was killed during a job."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCHED_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
