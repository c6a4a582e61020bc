"""Whether a process that another one has recorded still lives."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime

from batchrec_dagster.storage.processes import CLOCK_SECONDS, is_process_alive

SECONDS = 300


def test_the_id_of_a_process_that_ended_may_be_another_one_s_now() -> None:
    now = datetime.now(UTC).timestamp()
    assert is_process_alive(os.getpid(), recorded_at=now)
    # This process has started after the epoch.
    assert not is_process_alive(os.getpid(), recorded_at=0)
    assert is_process_alive(os.getpid(), recorded_at=now - CLOCK_SECONDS / 2)
    assert not is_process_alive(0)
    assert not is_process_alive(2**70)


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + SECONDS
    while is_process_alive(process.pid):  # Nobody has waited for it: its id is still taken.
        assert time.monotonic() < deadline
    os.kill(process.pid, 0)
    process.wait()
