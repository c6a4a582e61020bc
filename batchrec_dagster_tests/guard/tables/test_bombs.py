"""Tests of hostile files that unfold to gigabytes, crash their library or never end.

Such a file is refused with a message of one line that names the limit or the damage, and without
using much memory. The next good file works.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    declaration,
    module_project,
    table,
    write_ratings,
    write_source,
    zip_members,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.hostile import CONTROLS
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.guard.seams import preparation

pytestmark = [pytest.mark.attack, pytest.mark.slow]

MEMORY_GB = 3
TIME = 1_500_000_000
GOOD = f"userId,movieId,rating,timestamp\n1,2,5,{TIME}\n"
SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</worksheet>'
)


def write_workbook(path: Path, sheet: str) -> None:
    """Write a workbook with a single sheet of this XML."""
    pl.DataFrame({"userId": ["a"]}).write_excel(path)
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    parts["xl/worksheets/sheet1.xml"] = sheet.encode()
    path.write_bytes(zip_members(parts))


def write_far_cells(folder: Path) -> str:
    """Write two cells at the opposite corners of a sheet, which span 17 billion cells."""
    cell = '<row r="{1}"><c r="{0}{1}" t="inlineStr"><is><t>x</t></is></c></row>'
    rows = cell.format("A", 1) + cell.format("XFD", 1_048_576)
    write_workbook(folder / "bomb.xlsx", SHEET.format(f"<sheetData>{rows}</sheetData>"))
    return "bomb.xlsx"


def write_lying_workbook(folder: Path) -> str:
    """Write a large sheet that has 1,000 bytes according to the zip's directory."""
    size = repeats(500_000_000, 50_000_000)
    write_workbook(folder / "bomb.xlsx", SHEET.format(" " * (size - len(SHEET))))
    content = (folder / "bomb.xlsx").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        real_size = max(part.file_size for part in book.infolist()).to_bytes(4, "little")
    assert content.count(real_size) == 2
    (folder / "bomb.xlsx").write_bytes(content.replace(real_size, (1000).to_bytes(4, "little")))
    return "bomb.xlsx"


def build_repeated_rows(rows: int, length: int) -> pa.Table:
    """Return rows with the same long user id, which a dictionary stores once."""
    user = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["x" * length])
    numbers = pa.array(np.arange(rows) % 23)
    times = pa.array(TIME + np.arange(rows))
    return pa.table({"userId": user, "movieId": numbers, "rating": numbers, "timestamp": times})


def write_long_ids(folder: Path) -> str:
    """Write 400 MB in a file with a footer that declares a few hundred KB."""
    pq.write_table(build_repeated_rows(100_000, 4000), folder / "bomb.parquet", store_schema=False)
    return "bomb.parquet"


def write_huge_cells(folder: Path) -> str:
    """Write 100 GB in 10 KB: a dictionary repeats a cell of a megabyte."""
    rows = build_repeated_rows(100_000, 1_000_000)
    pq.write_table(rows, folder / "bomb.parquet", compression="zstd", store_schema=False)
    return "bomb.parquet"


def write_billion_rows(folder: Path) -> str:
    """Write a valid file of a thousand row groups that all share the same million equal rows."""
    path, rows = folder / "bomb.parquet", 1_000_000
    column = pl.select(pl.repeat(1, rows, dtype=pl.Int64)).to_series()
    frame = pl.DataFrame({"userId": column, "movieId": column, "timestamp": column})
    frame.write_parquet(path, statistics=False, row_group_size=rows, data_page_size=1 << 30)
    original_bytes = path.read_bytes()
    footer = pq.read_metadata(path)
    row_groups = pq.read_metadata(path)
    for _ in range(999):
        footer.append_row_groups(row_groups)
    footer.write_metadata_file(path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    old = int.from_bytes(original_bytes[-8:-4], "little")
    path.write_bytes(original_bytes[: -8 - old] + whole[-8 - length :])
    return "bomb.parquet"


def write_packed_parquet(folder: Path) -> str:
    """Write Parquet that unfolds, packed in gzip that unfolds.

    The unpacked bytes of both formats count towards the same limit.
    """
    rows = build_repeated_rows(50_000, 5_000)
    pq.write_table(rows, folder / "plain", compression="none", store_schema=False)
    path = folder / "bomb.parquet.gz"
    path.write_bytes(gzip.compress((folder / "plain").read_bytes()))
    (folder / "plain").unlink()
    return path.name


def write_delta_table(folder: Path) -> str:
    """Write a Delta table with a data file that unfolds to 6 GB."""
    from deltalake import write_deltalake

    location = folder / "bomb"
    write_deltalake(str(location), build_repeated_rows(10, 10))
    (data,) = location.glob("*.parquet")
    rows = build_repeated_rows(100_000, 60_000)
    pq.write_table(rows, data, compression="zstd", store_schema=False)
    (log,) = (location / "_delta_log").glob("*.json")
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"]["size"] = data.stat().st_size
    log.write_text("\n".join(map(json.dumps, actions)))
    return "bomb/"


def write_lying_zip(folder: Path) -> str:
    """Write a zip member of a megabyte that has 1,000 bytes according to the directory."""
    content = zip_members({"bomb.csv": bytes(1_000_000)})
    lie = content.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (folder / "bomb.zip").write_bytes(lie)
    return "bomb.zip!/bomb.csv"


def write(name: str, make_content: Callable[[], bytes]) -> Callable[[Path], str]:
    return lambda folder: write_source(folder, make_content(), name)


def zip_gzip() -> bytes:
    # A gzip file may have many members. This file has 1,000 equal members of 20 KB, and each member
    # unpacks to 20 MB.
    return zip_members({"bomb.csv.gz": gzip.compress(bytes(20_000_000)) * 1000})


@dataclass(frozen=True)
class Bomb:
    """A hostile file: its writer, the words that the message must have, and further settings."""

    write: Callable[[Path], str]
    words: str
    limits: dict[str, str] = field(default_factory=dict)
    ratings: dict[str, Any] = field(default_factory=dict)


FILE, MEMORY = "BATCHREC_MAX_FILE_GB", "BATCHREC_MAX_FILE_MEMORY_GB"
BOMBS = {
    "a workbook of two cells": Bomb(write_far_cells, MEMORY),
    "a workbook with a lying directory": Bomb(write_lying_workbook, "bomb.xlsx"),
    "a small workbook": Bomb(write_lying_workbook, FILE, {FILE: "0.00000001"}),
    "Parquet with long ids": Bomb(write_long_ids, "an id longer than 256 characters"),
    "Parquet with huge cells": Bomb(write_huge_cells, MEMORY),
    "Parquet of a billion rows": Bomb(write_billion_rows, FILE),
    "Parquet in gzip": Bomb(write_packed_parquet, FILE, {FILE: "0.001"}),
    "a Delta table": Bomb(write_delta_table, MEMORY, ratings={"format": "delta"}),
    "gzip": Bomb(write("a.gz", lambda: gzip.compress(bytes(10**7))), FILE, {FILE: "0.005"}),
    "zip": Bomb(
        write("bomb.zip", lambda: zip_members({"a.csv": bytes(1_000_000)})), FILE, {FILE: "0.0005"}
    ),
    "a zip that lies": Bomb(write_lying_zip, "it is damaged"),
    "gzip in zip": Bomb(write("bomb.zip", zip_gzip), FILE),
    "a line without an end": Bomb(
        write("a.csv", lambda: f"{GOOD}{'x' * 3_000_000}\n{GOOD}".encode()),
        "line 3 is longer than 1024 KB: fix the file, or set BATCHREC_MAX_LINE_KB",
    ),
    "many columns": Bomb(write("a.csv", lambda: b"a," * 300_000), "300,001 columns"),
    "a slow array": Bomb(
        write("a.json", lambda: f"[{'1,' * 10_000_000}1]".encode()),
        "BATCHREC_MAX_FILE_MINUTES",
        {"BATCHREC_MAX_FILE_MINUTES": "0.01"},
    ),
}


def require_little_memory() -> None:
    """Require that no process started by the tests so far has used much memory at its peak."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < MEMORY_GB * 1.1e9, peak


@pytest.fixture
def bomb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bomb:
    bomb = BOMBS[request.param]
    monkeypatch.setenv(MEMORY, str(MEMORY_GB))
    for name, value in bomb.limits.items():
        monkeypatch.setenv(name, value)
    return bomb


@pytest.mark.parametrize("bomb", BOMBS, indirect=True)
def test_a_bomb_is_refused_in_a_line_and_the_next_good_file_works(
    tmp_path: Path, bomb: Bomb, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = bomb.write(tmp_path)
    written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(preparation.UserError) as error:
        preparation.prepare(tmp_path, {"ratings": {"source": source, **bomb.ratings}})
    assert bomb.words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "interactions.csv").exists()
    require_little_memory()
    # in KB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak - max(before, written) < 1_500_000
    for name in bomb.limits:
        monkeypatch.delenv(name)
    (tmp_path / "good.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
    interactions = preparation.prepare(tmp_path, {"ratings": {"source": "good.csv.gz"}})
    assert interactions.rows == [("1", "2", TIME)]


@pytest.mark.parametrize("bomb", ["a workbook of two cells", "gzip"], indirect=True)
def test_new_refuses_a_bomb_in_a_line_and_declares_nothing(
    project: Project, bomb: Bomb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    source = bomb.write(project.root)
    result = CliRunner().invoke(main, ["new", "shop", "--ratings", source])
    assert result.exit_code == 1
    assert bomb.words in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error: ")]) == 1
    assert not [*(project.package / "defs").iterdir()]


@pytest.mark.parametrize("lines", [1, 40], ids=["longest", "many"])
def test_lines_of_exactly_the_limit_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "2")
    row = f"a,b,{TIME},{'x' * (2000 - len(f'a,b,{TIME},'))}\n"
    source = write_source(tmp_path, f"user,item,time,note\n{row * lines}")
    assert len(preparation.prepare(tmp_path, {"ratings": {"source": source}}).rows) == lines
    source = write_source(tmp_path, f"user,item,time,note\n{row * lines}x{row}")
    with pytest.raises(preparation.UserError, match=f"line {lines + 2} is longer than 2 KB"):
        preparation.prepare(tmp_path, {"ratings": {"source": source}})


@pytest.mark.parametrize("depth", [1_000, 3_000])
def test_json_that_is_nested_too_deep_is_a_bad_row(tmp_path: Path, depth: int) -> None:
    good = f'{{"user": "a", "item": "b", "time": {TIME}}}\n'
    deep = f'{{"user": "a", "item": {"[" * depth}{"]" * depth}, "time": {TIME}}}\n'
    source = write_source(tmp_path, good + deep + good, "a.jsonl")
    interactions = preparation.prepare(
        tmp_path, {"ratings": {"source": source, "on_bad_rows": "skip"}}
    )
    assert len(interactions.rows) == 2


# Tests that run the batchrec command


@pytest.fixture(scope="module")
def shop(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with published recommendations, which now reads a folder of ratings."""
    project = module_project(tmp_path_factory.mktemp("shop"))
    shutil.copy(REPOSITORY / "batchrec_dagster/definitions.py", project.package)
    first_run.copy_to(project)
    project.environment[MEMORY] = str(MEMORY_GB)
    write_ratings(project.root / "inbox" / "good.csv")
    project.declare(declaration("shop", "inbox/"))
    return project


def run_refused(project: Project, *command: str) -> str:
    """Return the one-line message of a command that refuses its input with exit status 1."""
    result = project.run("batchrec", *command)
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr + result.stdout
    assert not CONTROLS.search(result.stderr.replace("\n", ""))
    require_little_memory()
    return result.stderr


@pytest.mark.parametrize(
    "name", ["Parquet with long ids", "a workbook of two cells", "Parquet with huge cells"]
)
@nightly("a process of each command")
def test_every_command_refuses_a_bomb_and_published_lists_stay(shop: Project, name: str) -> None:
    bomb = BOMBS[name]
    lists_before = table(shop, "shop")
    good = shop.root / "inbox" / "good.csv"
    content = good.read_bytes()
    good.unlink()
    written = shop.root / "inbox" / bomb.write(shop.root / "inbox")
    try:
        message = run_refused(shop, "new", "other", "--ratings", "inbox/")
        assert bomb.words in message, message
        assert not (shop.package / "defs" / "other").exists()
        message = run_refused(shop, "run", "shop")
        assert bomb.words in message, message
        assert table(shop, "shop").equals(lists_before)
    finally:
        written.unlink()
        good.write_bytes(content)
