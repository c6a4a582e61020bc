"""Tests of a machine without disk space or file descriptors.

The message is a line, nothing is half-written, and the next run is right. A limit on the size of
files stands in for a full disk: both fail in the middle of a write.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    declaration,
    module_project,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly

pytestmark = pytest.mark.slow

# The limit is set in a separate process, because pytest could not work with it.
RUN = """
import resource, signal, sys
from pathlib import Path
import dagster as dg
from batchrec_dagster_tests.guard.builders import Project, refresh, why
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit, value = getattr(resource, sys.argv[2]), int(sys.argv[3])
resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
result = refresh(Project(Path(sys.argv[1])), "shop", dg.DagsterInstance.ephemeral(), report=True)
print("because: " + ("" if result.success else why(result)))
"""


def limited(project: Path, limit: str, value: int) -> str:
    """Run a refresh under the limit, and return why it failed, or an empty text."""
    command = [sys.executable, "-c", RUN, str(project), limit, str(value)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return ran.stdout.partition("because: ")[2].strip()


@nightly("a process of its own takes seconds")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", write_ratings(tmp_path / "ratings.csv", users=100)))
    reason = limited(project.root, "RLIMIT_FSIZE", 40_000)
    assert "\n" not in reason
    assert "File too large" in reason
    assert not list((project.storage / "shop" / "raw" / "ratings").iterdir())
    # There is room for every file but the catalogue's log, which background jobs write.
    reason = limited(project.root, "RLIMIT_FSIZE", 90_000)
    assert "\n" not in reason
    assert "cannot be read or written" in reason
    assert not list(project.storage.glob("shop/curated/recommendations/**/*.parquet"))
    with dg.DagsterInstance.ephemeral() as instance:
        assert refresh(project, "shop", instance).success
    assert table(project, "shop").get_column("user_id").n_unique() == 100


@nightly("a process of its own takes seconds")
def test_64_descriptors_are_enough(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", write_ratings(tmp_path / "ratings.csv")))
    assert limited(project.root, "RLIMIT_NOFILE", 64) == ""
    assert table(project, "shop").get_column("user_id").n_unique() == 60
