"""Files that unfold to gigabytes or crash their library, through the commands that people type.

Each is one line, exit status 1 and less than 3 GB of memory. What was published stays, and the next
good file works.
"""

from __future__ import annotations

import io
import json
import resource
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    copied_project,
    declaration,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.hostile import CONTROLS
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.s3 import READER, S3Server
from batchrec_dagster_tests.preparation.sources.hostile_tables import (
    change_commit,
    write_delta,
)

pytestmark = [pytest.mark.attack, pytest.mark.slow]

MEMORY_GB = 3
TIME = 1_500_000_000


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</worksheet>'
)


def write_workbook(path: Path, sheet: str) -> None:
    """A workbook with one sheet of this XML."""
    pl.DataFrame({"userId": ["a"]}).write_excel(path)
    parts = {}
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    parts["xl/worksheets/sheet1.xml"] = sheet.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in parts.items():
            book.writestr(name, content)


def write_far_cells(folder: Path) -> None:
    """Two cells at the ends of a sheet, which has 17 billion."""
    cell = '<row r="{1}"><c r="{0}{1}" t="inlineStr"><is><t>x</t></is></c></row>'
    rows = cell.format("A", 1) + cell.format("XFD", 1_048_576)
    write_workbook(folder / "bomb.xlsx", SHEET.format(f"<sheetData>{rows}</sheetData>"))


def write_lying_workbook(folder: Path) -> None:
    """A sheet of 500 MB, which the directory of the zip says has 1,000 bytes."""
    size = 500_000_000
    write_workbook(folder / "bomb.xlsx", SHEET.format(" " * (size - len(SHEET))))
    content = (folder / "bomb.xlsx").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        real_size = max(part.file_size for part in book.infolist()).to_bytes(4, "little")
    assert content.count(real_size) == 2
    (folder / "bomb.xlsx").write_bytes(content.replace(real_size, (1000).to_bytes(4, "little")))


def build_repeated_rows(rows: int, length: int) -> pa.Table:
    """Rows whose user is one long text, which a dictionary holds once."""
    user = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["x" * length])
    numbers = pa.array(np.arange(rows) % 23)
    times = pa.array(TIME + np.arange(rows))
    return pa.table({"userId": user, "movieId": numbers, "rating": numbers, "timestamp": times})


def write_parquet(folder: Path) -> None:
    """400 MB in a file whose footer speaks of a few hundred KB."""
    pq.write_table(build_repeated_rows(100_000, 4000), folder / "bomb.parquet", store_schema=False)


def write_delta_table(folder: Path) -> None:
    """A table whose data file unfolds to 6 GB."""
    write_delta(str(folder))
    (data,) = folder.glob("*.parquet")
    pq.write_table(
        build_repeated_rows(100_000, 60_000), data, compression="zstd", store_schema=False
    )
    log = folder / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    fields = [
        {"name": name, "type": kind, "nullable": True, "metadata": {}}
        for name, kind in (
            ("userId", "string"),
            ("movieId", "long"),
            ("rating", "long"),
            ("timestamp", "long"),
        )
    ]
    for action in actions:
        if "metaData" in action:
            schema = {"type": "struct", "fields": fields}
            action["metaData"]["schemaString"] = json.dumps(schema)
    log.write_text("\n".join(map(json.dumps, actions)))
    log.write_bytes(change_commit(log.read_bytes(), {"size": data.stat().st_size}))


@dataclass(frozen=True)
class Bomb:
    """How a hostile source is written, and what the message has to say of it."""

    write: Callable[[Path], None]
    words: str
    is_delta: bool = False


BOMBS = {
    "a workbook of two cells": Bomb(write_far_cells, "BATCHREC_MAX_FILE_MEMORY_GB"),
    "Parquet": Bomb(write_parquet, "an id longer than 256 characters"),
    "a Delta table": Bomb(write_delta_table, "", is_delta=True),
    # At night, as another workbook.
    "a workbook with a lying directory": Bomb(write_lying_workbook, "bomb.xlsx is empty"),
}


def read_refusal(project: Project, *command: str) -> str:
    """The message of a command that refuses its input: a line, with exit status 1."""
    result = project.run("batchrec", *command)
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr + result.stdout
    assert not CONTROLS.search(result.stderr.replace("\n", ""))
    # The peak of the largest process that any test of this process has started.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < MEMORY_GB * 1e9, peak
    return result.stderr


def is_one_line(message: str) -> bool:
    """Whether an error is one line, next to what a run says of its stages."""
    return len([line for line in message.splitlines() if line.startswith("Error: ")]) == 1


@pytest.fixture(scope="module")
def shop(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has published recommendations, and now reads a folder of ratings."""
    project = copied_project(tmp_path_factory.mktemp("shop"))
    first_run.copy_to(project)
    project.environment["BATCHREC_MAX_FILE_MEMORY_GB"] = str(MEMORY_GB)
    write_ratings(project.root / "inbox" / "good.csv")
    project.declare(declaration("shop", "inbox/"))
    return project


@pytest.mark.parametrize("name", [*BOMBS][: repeats(len(BOMBS), 4)])
def test_a_bomb_is_one_line_and_harms_nothing(shop: Project, name: str) -> None:
    bomb = BOMBS[name]
    lists_before = table(shop, "shop")
    inbox = shop.root / "inbox"
    good = inbox / "good.csv"
    content = good.read_bytes()
    good.unlink()
    bomb.write(inbox)
    attributes = declaration("shop", "inbox/")
    if bomb.is_delta:
        attributes["ratings"]["format"] = "delta"
    shop.declare(attributes)
    try:
        if not bomb.is_delta:
            message = read_refusal(shop, "new", "other", "--ratings", "inbox/")
            assert is_one_line(message), message
            assert bomb.words in message, message
            assert not (shop.package / "defs" / "other").exists()
        message = read_refusal(shop, "run", "shop")
        assert bomb.words in message, message
        assert table(shop, "shop").equals(lists_before)
    finally:
        shutil.rmtree(inbox)
        inbox.mkdir()
        good.write_bytes(content)
        shop.declare(declaration("shop", "inbox/"))


def test_the_next_good_file_works(shop: Project) -> None:
    write_ratings(shop.root / "inbox" / "good.csv", seed=1)
    before = table(shop, "shop")
    result = shop.run("batchrec", "run", "shop")
    assert result.returncode == 0, result.stderr
    assert not table(shop, "shop").equals(before)


# test_attack_tables reads each kind in both places, in this process.
@pytest.mark.parametrize("place", ["folder", "S3"][: repeats(2, 1)])
def test_a_hostile_table_is_refused_by_every_command(
    shop: Project, place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.parquet"
    pl.DataFrame({"user": ["secret"], "item": [1], "ts": [TIME]}).write_parquet(secret)
    folder = shop.root / "lake"
    shutil.rmtree(folder, ignore_errors=True)
    source = "lake/"
    environment = dict(shop.environment)
    write_delta(f"file://{folder}")
    (log,) = (folder / "_delta_log").glob("*.json")
    log.write_bytes(change_commit(log.read_bytes(), {"path": f"file://{secret}"}))
    if place == "S3":
        s3: S3Server = request.getfixturevalue("s3")
        source = f"s3://{s3.create_bucket()}/lake/"
        shop.environment |= s3.environment(READER)
        for path in filter(Path.is_file, folder.rglob("*")):
            s3.store().put(f"{source}{path.relative_to(folder)}", path)
    try:
        columns = {"user": "user", "item": "item", "timestamp": "ts"}
        ratings = {"source": source, "columns": columns, "format": "delta"}
        shop.declare({"name": "lake", "ratings": ratings})
        assert shop.run("batchrec", "check").returncode == 0
        assert "not in its folder" in read_refusal(shop, "run", "lake")
    finally:
        shutil.rmtree(shop.package / "defs" / "lake", ignore_errors=True)
        shop.environment = environment
    assert not list((shop.storage / "lake").rglob("*.parquet"))
