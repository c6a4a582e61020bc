"""Tests of the child process that reads foreign files: its environment and its end.

guard/tables/test_bombs.py tests the files that the child process refuses.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.file_form import PreparationError
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file

pytestmark = pytest.mark.attack


def open_array(reader: ConfinedReader, path: Path) -> OpenedFile:
    """Open a JSON array by the child process."""
    path.write_text('[{"user": "a"}]')
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    return open_file(RawFile(path, path.name), "auto", folder, reader)


def find_pid(reader: ConfinedReader) -> int:
    """Return the process id of the child."""
    assert reader._child is not None
    return reader._child._process.pid


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc")
def test_one_child_reads_many_files_without_credentials_and_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "SHOP_DATABASE_URL", "BATCHREC_ALERT_WEBHOOK"):
        monkeypatch.setenv(name, "a-secret")
    pids = set()
    with ConfinedReader() as reader:
        for number in range(3):
            plain = open_array(reader, tmp_path / f"{number}.json")
            assert plain.path.read_text() == '{"user": "a"}\n'
            pids.add(find_pid(reader))
        (pid,) = pids
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"a-secret" not in environment
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_crash_of_a_library_is_one_line_and_the_next_file_works(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ConfinedReader() as reader:
        open_array(reader, path)
        os.kill(find_pid(reader), signal.SIGSEGV)
        with pytest.raises(PreparationError, match=r"crashed \(SIGSEGV\)"):
            open_array(reader, path)
        assert open_array(reader, path).unit == "element"


@pytest.mark.slow
def test_the_child_of_a_killed_process_ends(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from batchrec_dagster_tests.preparation.test_confined import ConfinedReader, find_pid, open_array
reader = ConfinedReader()
open_array(reader, Path({str(tmp_path / "a.json")!r}))
print(find_pid(reader), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    pid = int(result.stdout)
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")
