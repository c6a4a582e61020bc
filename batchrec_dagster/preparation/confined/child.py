"""The child process, which converts files within limits of the kernel.

Each line of its standard input is a JSON object that names a file. The child answers each line with
a JSON object in one line. An answer has `shift`, or it has `error` (the message) and `kind` (the
name of the error's class).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from batchrec_dagster.preparation.confined.conversions import CONVERSIONS, ForeignFile
from batchrec_dagster.preparation.confined.reader import build_memory_error
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import Limits

PARENT_WATCHED_SECONDS = 1
REASON_LENGTH = 400


def main() -> None:
    """Convert files until standard input ends.

    The first argument of the command has the limits as JSON.
    """
    limits = Limits(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    # Text that a library prints goes to standard error, so that it does not get into the answers.
    os.dup2(2, 1)
    _end_with_parent()
    # The kernel sends SIGXFSZ when a file grows beyond the limit. Python ignores the signal, and
    # then C++ libraries report the failed write in words of their own. The default action ends this
    # process, and the signal tells the parent which limit was reached.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    _set_limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        # macOS maps hundreds of gigabytes into each process, and refuses such a limit.
        _set_limit(resource.RLIMIT_AS, limits.file_memory)
    for line in iter(sys.stdin.buffer.readline, b""):
        answers.write(json.dumps(_answer(json.loads(line), limits)).encode() + b"\n")
        answers.flush()


def _answer(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + limits.file_seconds) + 1)
    packed = request["packed"]
    _set_limit(resource.RLIMIT_FSIZE, limits.compute_unfolded_bytes(packed))
    file = ForeignFile(Path(request["source"]), request["part"], packed, limits)
    try:
        return {"shift": CONVERSIONS[request["format"]].convert(file, Path(request["target"]))}
    except FileError as error:
        refusal = error
    except MemoryError:
        refusal = build_memory_error(limits)
    except OSError as error:
        refusal = FileError(f"it cannot be read: {error.strerror or error}")
    except BaseException as error:
        # A panic of a Rust library is not an Exception.
        reason = " ".join(str(error).split())[:REASON_LENGTH] or type(error).__name__
        refusal = FileError(f"it cannot be read ({reason}): write it again")
    return {"error": str(refusal), "kind": type(refusal).__name__}


def _set_limit(which: int, value: int) -> None:
    """Set a limit of the process, but not above the hard limit that it was started with."""
    _, hard = resource.getrlimit(which)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (most, hard))


def _end_with_parent() -> None:
    """End this process soon after its parent ends, even if the parent is killed during a job."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCHED_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
