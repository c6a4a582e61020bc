"""Whether a process that another one has recorded still lives."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
# How much a process may seem to have started after it recorded its id: the clock of this machine
# may have been corrected since.
CLOCK_SECONDS = 600.0


def is_process_alive(pid: int, *, recorded_at: float | None = None) -> bool:
    """Whether the process of this id runs on this machine. A zombie does not.

    recorded_at: when the process recorded its id, in seconds since 1970. A process that started
    after that has been given the id again.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    with suppress(OSError, ValueError, IndexError):
        # The name of the program comes second, in parentheses, and may contain any character.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in "ZX":
            return False
        if recorded_at is not None:
            seconds_since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
            started_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + seconds_since_boot
            return started_at <= recorded_at + CLOCK_SECONDS
    return True
