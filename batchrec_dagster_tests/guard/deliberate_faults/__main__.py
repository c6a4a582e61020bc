"""A program that breaks batchrec on purpose and shows which test of the guard notices each fault.

    python -m batchrec_dagster_tests.guard.deliberate_faults [--jobs 2] [ROOM ...]

Each ROOM.toml beside this file has the faults of a room, a part of batchrec. A fault has a name in
words, the file, the text to replace, its replacement, and the tests of the guard that may notice
the fault. The program makes each fault in a new copy of the files that git lists. It prints a
table, and ends with exit code 1 if a fault goes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

FOLDER = Path(__file__).parent
GUARD = FOLDER.parent
REPOSITORY = GUARD.parents[1]
# pytest's exit code if tests ran and some failed.
TESTS_FAILED = 1
TIMEOUT_SECONDS = 900
# pytest reports a test as an error if its fixture fails.
FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) (?:\S*/guard/)?(\S+?\.py)::(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """A change to a file that breaks a promise."""

    room: str
    name: str
    """The broken promise, in words."""
    file: str
    old: str
    """The text that is replaced, which occurs once in the file."""
    new: str
    tests: tuple[str, ...]
    """The tests that may notice the fault: `FILE` or `FILE::TEST`, relative to guard/."""

    def apply(self, root: Path) -> None:
        """Make the change below `root`. Raises ValueError unless the old text occurs once."""
        path = root / self.file
        content = path.read_text()
        if content.count(self.old) != 1:
            raise ValueError(f"{self.room}: {self.name}: {self.file} has the old text not once")
        path.write_text(content.replace(self.old, self.new))


@dataclass(frozen=True)
class Verdict:
    """The result of trying a fault."""

    fault: Fault
    caught_by: str
    """The first test that failed; empty if no test failed."""
    seconds: float
    output: str


def read_faults(rooms: Sequence[str]) -> list[Fault]:
    """Return the faults in these rooms, or all faults if no room is named."""
    files = sorted(FOLDER.glob("*.toml"))
    return [
        Fault(file.stem, **{**fault, "tests": tuple(fault["tests"])})
        for file in files
        if not rooms or file.stem in rooms
        for fault in tomllib.loads(file.read_text())["fault"]
    ]


def try_fault(fault: Fault, folder: Path) -> Verdict:
    """Run the tests on a copy of batchrec with the fault, until the first test fails."""
    root = folder / re.sub(r"\W+", "-", f"{fault.room} {fault.name}")
    _copy_repository(root)
    fault.apply(root)
    tests = [f"batchrec_dagster_tests/guard/{test}" for test in fault.tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
    command += ["--hypothesis-profile=unshrunk"]
    # A test that is named is run even if it is a nightly test.
    is_named = all("::" in test for test in fault.tests)
    start_seconds = time.monotonic()
    ended = subprocess.run(
        [*command, f"--basetemp={root}.tests", *tests],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "BATCHREC_LONG_TESTS": "1" if is_named else "0",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - start_seconds
    failed_test = FAILED_TEST.search(ended.stdout)
    caught_by = ""
    if ended.returncode == TESTS_FAILED and failed_test is not None:
        caught_by = "::".join(failed_test.groups())
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(f"{root}.tests", ignore_errors=True)
    return Verdict(fault, caught_by, seconds, ended.stdout + ended.stderr)


def _copy_repository(root: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        # Git still lists a deleted file until the deletion is committed.
        if source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, root / name)


def main() -> int:
    """Try the faults, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description="Breaks batchrec on purpose.")
    parser.add_argument("rooms", nargs="*", metavar="ROOM")
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time")
    arguments = parser.parse_args()
    faults = read_faults(arguments.rooms)
    print("| room | fault | caught by | seconds |\n|---|---|---|---|")
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        for verdict in pool.map(partial(try_fault, folder=Path(folder)), faults):
            fault = verdict.fault
            caught_by = verdict.caught_by or "**nothing**"
            print(
                f"| {fault.room} | {fault.name} | {caught_by} | {verdict.seconds:.0f} |", flush=True
            )
            if not verdict.caught_by:
                unnoticed.append(verdict)
    for verdict in unnoticed:
        print(f"\n{verdict.fault.room}: {verdict.fault.name}\n{verdict.output[-3000:]}")
    print(f"\n{len(faults) - len(unnoticed)} of {len(faults)} faults were caught")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
