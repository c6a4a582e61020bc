"""Tests that only the temporary folders of killed processes are deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.steps.data.interactions import remove_dead_work
from batchrec_dagster.storage.layout import ListKeys

HOLD = """
import sys
from batchrec_dagster.storage.durable import temporary_folder
with temporary_folder() as folder:
    (folder / "part").mkdir()
    (folder / "part" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Yield a process that has a temporary folder until its input ends, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_temporary_folders_of_killed_processes_go_when_the_next_one_makes_its_own(
    tmp_path: Path,
) -> None:
    notes_folder = tmp_path / "batchrec-temporary-notes"
    notes_folder.mkdir()
    (tmp_path / "batchrec-temporary-abcdefgh").symlink_to(notes_folder, target_is_directory=True)
    with holding(tmp_path) as (live, live_folder):
        with holding(tmp_path) as (dead_process, dead_folder):
            dead_process.send_signal(signal.SIGKILL)
            dead_process.wait()
            assert (dead_folder / "part" / "file").exists()
        with holding(tmp_path) as (_, new):
            assert not dead_folder.exists()
            assert (live_folder / "part" / "file").exists()
            assert new.is_dir()
            assert notes_folder.is_dir()
        assert not new.exists()
        live.communicate("")
    assert not live_folder.exists()


def test_unfinished_spark_files_of_dead_runs_are_deleted(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)})
    storage = deployment.open_storage()

    @dg.job
    def run_job() -> None:
        pass

    ended_run_id = run_job.execute_in_process(instance=instance).run_id
    alive = instance.create_run_for_job(run_job, status=dg.DagsterRunStatus.STARTED).run_id
    for run in (ended_run_id, alive, "mine", "another", "forgotten"):
        storage.store.put(storage.uri(f"shop/work/{run}/parts/part-0"), b"x")
    old_time = time.time() - 3 * 86_400
    for run in ("mine", "forgotten"):
        os.utime(tmp_path / "storage/shop/work" / run / "parts/part-0", (old_time, old_time))
    files = ListFiles(storage, ListKeys("shop"))
    remove_dead_work(files, "mine", DagsterRuns(instance))
    runs_left = {info.uri.split("/")[5] for info in storage.store.list(storage.uri("shop/work/"))}
    assert runs_left == {alive, "mine", "another"}
