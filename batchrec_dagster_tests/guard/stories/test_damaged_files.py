"""Tests of emptied, cut or changed files in the storage, which are made again or refused."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import Project, definitions, module_project, table, why
from batchrec_dagster_tests.guard.first_run import FirstRun

pytestmark = pytest.mark.slow

OUTPUT = "curated/batch_inference/*/*.out"
TABLE = "curated/recommendations/recommendations.parquet"


def empty(file: Path) -> None:
    file.write_bytes(b"")


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def half_of_the_lines(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: len(lines) // 2]))


def other_digits(file: Path) -> None:
    """Change the file's digits, but not its length and time."""
    times = file.stat()
    file.write_bytes(file.read_bytes().replace(b"3", b"8"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def run(project: Project) -> str:
    """Run the refresh without its report, and return why it failed, or an empty text."""
    lists = dg.AssetSelection.keys("shop/recommendations").upstream()
    with definitions(project) as defs, dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            raise_on_error=False,
            asset_selection=list(lists.resolve(defs.resolve_asset_graph())),
        )
    return "" if result.success else why(result)


@pytest.fixture(scope="module")
def prepared(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a pipeline after its first run."""
    project = module_project(tmp_path_factory.mktemp("prepared"))
    first_run.copy_to(project)
    return project


@pytest.fixture
def project(prepared: Project) -> Iterator[Project]:
    """Yield the prepared project, and restore its files afterwards."""
    home, copy = prepared.root / ".batchrec", prepared.root / "copy"
    shutil.copytree(home, copy)
    yield prepared
    shutil.rmtree(home)
    copy.rename(home)


AGAIN = "Run again: the next run starts a new job"
DELETE = "delete it, and run the refresh"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("raw/ratings/ratings.csv", other_digits, ""),
        (OUTPUT, empty, ""),
        (OUTPUT, half_of_the_lines, AGAIN),
        (TABLE, half, f"recommendations.parquet is damaged .*{DELETE}"),
        ("records/personalize_dataset.json", empty, ""),
        ("records/solution_version.json", half, ""),
    ],
)
def test_a_damaged_file_is_made_again_or_refused_by_name(
    project: Project, name: str, damage: Callable[[Path], None], message: str
) -> None:
    good = table(project, "shop")
    (file,) = (project.storage / "shop").glob(name)
    damage(file)
    failure = run(project)
    assert re.search(message, failure) if message else not failure
    if failure:
        assert str(file.parent) in failure
        assert "\n" not in failure
        if DELETE in message:
            file.unlink()
        assert run(project) == ""
    assert table(project, "shop").equals(good)


@pytest.mark.parametrize("folder", ["models", "datasets"])
def test_a_flipped_byte_of_the_embedded_personalize_fails_one_run_and_no_more(
    project: Project, folder: str
) -> None:
    good = table(project, "shop")
    files = [
        file
        for file in (project.root / ".batchrec/personalize" / folder).rglob("*")
        if file.is_file() and file.suffix != ".json"
    ]
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    for output in (project.storage / "shop").glob(OUTPUT):
        output.unlink()
    assert "next run does" in run(project)
    assert run(project) == ""
    assert table(project, "shop").equals(good)
