"""Tests that the next run publishes the right lists after a power cut lost all unsynced writes.

A preloaded library records a night's writes, including those of SQLite, Polars and Arrow. From the
record, the tests rebuild the disk as various power cuts would leave it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    module_project,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.forks import FORKS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("gcc") is None,
        reason="needs a C compiler: apt-get install gcc libc6-dev",
    ),
]

SEED = 11
CUTS = repeats(18, 6)
# Reading the disk after a cut is cheap, but running a night is not.
CUTS_PER_NIGHT = 3
LISTS = ["user_id", "rank", "item_id"]
NIGHT = """
import sys
from pathlib import Path
from batchrec_dagster_tests.guard.stories.test_power_cut import run_night
from batchrec_dagster_tests.guard.builders import Project
run_night(Project(Path(sys.argv[1])))
"""


@dataclass
class Node:
    """A folder, or a file with the part of its content that is on the disk."""

    content: bytes = b""
    names: dict[str, Node] | None = None


@dataclass
class Disk:
    """The content of the disk after a power cut.

    Only the first few changes of a folder after its last sync were written.
    """

    top: Path
    log: Path
    tree: Node
    last_written: dict[Path, int] = field(default_factory=dict)

    @classmethod
    def replay(cls, cut: int, chance: random.Random, before: Path, top: Path, log: Path) -> Disk:
        disk = cls(top, log, _read(before))
        events = [line.split("\t") for line in (log / "log").read_text().splitlines()[:cut]]
        last_sync = {
            Path(event[1]): number for number, event in enumerate(events) if event[0] == "D"
        }
        for event in events:
            for name in filter(None, event[1:3]):
                folder = Path(name).parent
                if folder not in disk.last_written:
                    disk.last_written[folder] = chance.randint(
                        last_sync.get(folder, -1), len(events)
                    )
        for number, event in enumerate(events):
            disk.apply(number, *event)
        return disk

    def apply(self, number: int, kind: str, *values: str) -> None:
        path = Path(values[0])
        if kind == "S":
            if node := self.find(path):
                node.content = (self.log / values[1]).read_bytes()
            return
        changed_path = Path(values[1]) if kind in "RL" else path
        if kind == "D" or number > self.last_written[changed_path.parent]:
            return
        folder, source = self.find(changed_path.parent), self.find(path)
        if folder is None or folder.names is None:
            return
        if kind == "U":
            folder.names.pop(path.name, None)
        elif kind in "CM":
            folder.names.setdefault(path.name, Node(names={} if kind == "M" else None))
        elif kind == "T":
            folder.names[path.name] = Node()
        else:
            folder.names[changed_path.name] = source or Node()
            parent = self.find(path.parent)
            if kind == "R" and parent is not None and parent.names is not None:
                parent.names.pop(path.name, None)

    def find(self, path: Path) -> Node | None:
        node: Node | None = self.tree
        for part in path.relative_to(self.top).parts:
            node = node.names.get(part) if node is not None and node.names else None
        return node

    def write(self) -> None:
        shutil.rmtree(self.top)
        _write(self.tree, self.top)


def _read(path: Path) -> Node:
    if path.is_dir():
        return Node(names={child.name: _read(child) for child in path.iterdir()})
    return Node(path.read_bytes())


def _write(node: Node, path: Path) -> None:
    if node.names is None:
        path.write_bytes(node.content)
        return
    path.mkdir(mode=0o700)
    for name, child in node.names.items():
        _write(child, path / name)


def run_night(project: Project) -> str:
    """Run a refresh, and return why it failed, or an empty text."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = refresh(project, "shop", instance)
    return "" if result.success else why(result)


def run_next_night(project: Project, result_file: Path) -> str:
    """Run a refresh in a new process, because no thread survives a power cut."""
    process = FORKS.Process(target=_write_night_result, args=(project, result_file))
    process.start()
    process.join(600)
    assert not process.is_alive(), "the run does not end"
    return result_file.read_text() if result_file.exists() else "the process died"


def _write_night_result(project: Project, result_file: Path) -> None:
    result_file.write_text(run_night(project))


def record_night(project: Project, folder: Path) -> Path:
    """Run a night in a separate process that records its changes and syncs."""
    library, log = folder / "power_cut.so", folder / "log"
    source = Path(__file__).with_name("power_cut.c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    log.mkdir()
    recording = {"POWER_CUT_ROOT": str(project.root), "POWER_CUT_LOG": str(log)}
    subprocess.run(
        [sys.executable, "-c", NIGHT, str(project.root)],
        env={**os.environ, **recording, "LD_PRELOAD": str(library)},
        check=True,
        timeout=600,
    )
    return log


def test_a_power_cut_damages_no_table_and_the_next_run_is_right(
    tmp_path: Path, first_run: FirstRun
) -> None:
    (tmp_path / "project").mkdir()
    project = module_project(tmp_path / "project")
    first_run.copy_to(project)
    # The log is outside the project, because a power cut changes the project.
    ratings = write_ratings(tmp_path / "ratings.csv")
    project.declare(declaration("shop", ratings))
    first = table(project, "shop").select(LISTS)
    before = tmp_path / "before"
    shutil.copytree(project.root, before)
    write_ratings(ratings, seed=1)
    log = record_night(project, tmp_path)
    second = table(project, "shop").select(LISTS)
    assert not second.equals(first)

    chance = random.Random(SEED)
    length = len((log / "log").read_text().splitlines())
    for number in range(CUTS):
        cut = (number * length + chance.randrange(length)) // CUTS
        Disk.replay(cut, chance, before, project.root, log).write()
        lists_left = table(project, "shop").select(LISTS)
        assert lists_left.equals(first) or lists_left.equals(second), f"cut {cut} of {length}"
        for file in project.storage.rglob("history/**/*.parquet"):
            assert pl.read_parquet(file).select(LISTS).equals(first)
        if number % CUTS_PER_NIGHT:
            continue
        reason = run_next_night(project, tmp_path / f"said-{number}")
        assert reason == "", f"cut {cut} of {length}"
        assert table(project, "shop").select(LISTS).equals(second), f"cut {cut} of {length}"
