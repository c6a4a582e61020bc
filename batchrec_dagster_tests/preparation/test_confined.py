"""The child process that reads foreign files: what ends it, and what it gets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import LimitError
from batchrec_dagster.preparation.sources.opening import PlainFile, make_plain

pytestmark = pytest.mark.attack


def open_file(reader: ConfinedReader, path: Path) -> PlainFile:
    """What the child makes of the file."""
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    return make_plain(path, folder, reader)


def write_array(path: Path) -> Path:
    path.write_text('[{"user": "a"}]')
    return path


def find_pid(reader: ConfinedReader) -> int:
    """The process id of the child."""
    assert reader._child is not None
    return reader._child._process.pid


def test_one_child_reads_many_files(tmp_path: Path) -> None:
    with ConfinedReader() as reader:
        answers, pids = [], set()
        for number in range(3):
            answers.append(open_file(reader, write_array(tmp_path / f"{number}.json")))
            pids.add(find_pid(reader))
    assert len(pids) == 1
    assert {answer.path.read_text() for answer in answers} == {'{"user": "a"}\n'}


def test_a_file_that_takes_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_MINUTES", "0.01")
    path = tmp_path / "slow.json"
    path.write_text(f"[{'1,' * 10_000_000}1]")
    with ConfinedReader() as reader:
        with pytest.raises(LimitError, match=r"the 0\.01 minutes of BATCHREC_MAX_FILE_MINUTES"):
            open_file(reader, path)
        # The next file gets a new child.
        assert open_file(reader, write_array(tmp_path / "good.json")).unit == "element"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_a_file_that_takes_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_MEMORY_GB", "1")
    # Each of many rows has the same long text, which the file holds once.
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(40_000, np.int32)), ["x" * 60_000])
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"user": text}), path, store_schema=False)
    with (
        ConfinedReader() as reader,
        pytest.raises(
            (LimitError, FileError), match=r"BATCHREC_MAX_FILE_MEMORY_GB|out of memory|too big"
        ),
    ):
        open_file(reader, path)


def test_a_crash_of_a_library_is_one_line(tmp_path: Path) -> None:
    path = write_array(tmp_path / "a.json")
    with ConfinedReader() as reader:
        open_file(reader, path)
        os.kill(find_pid(reader), signal.SIGSEGV)
        with pytest.raises(FileError, match=r"crashed \(SIGSEGV\)"):
            open_file(reader, path)
        assert open_file(reader, path).unit == "element"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc")
def test_the_child_gets_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "SHOP_DATABASE_URL", "BATCHREC_ALERT_WEBHOOK"):
        monkeypatch.setenv(name, "a-secret")
    with ConfinedReader() as reader:
        open_file(reader, write_array(tmp_path / "a.json"))
        environment = Path(f"/proc/{find_pid(reader)}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"a-secret" not in environment


def test_the_child_ends_with_the_block(tmp_path: Path) -> None:
    with ConfinedReader() as reader:
        open_file(reader, write_array(tmp_path / "a.json"))
        pid = find_pid(reader)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_the_child_of_a_killed_process_ends(tmp_path: Path) -> None:
    path = write_array(tmp_path / "a.json")
    code = f"""
import os, signal
from pathlib import Path
from batchrec_dagster_tests.preparation.test_confined import ConfinedReader, open_file, find_pid
reader = ConfinedReader()
open_file(reader, Path({str(path)!r}))
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
