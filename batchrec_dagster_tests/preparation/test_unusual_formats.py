"""Formats that a library converts, and those that are named and refused."""

from __future__ import annotations

import bz2
import json
import lzma
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from batchrec_dagster.preparation.items import ItemsLayout, parse_items
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import SourceContext
from batchrec_dagster.samples import generator
from batchrec_dagster.storage.object_store import ObjectStore

SECONDS = 1_577_966_405
WRITTEN = [f"007,x,{SECONDS}", f"8,z,{SECONDS + 1}"]
FRAME = pl.DataFrame(
    {"user": ["007", "8"], "item": ["x", "z"], "time": [SECONDS, SECONDS + 1]},
)


def read(path: Path, reading: ReadSettings | None = None) -> list[str]:
    """The lines after the header."""
    target = path.parent / "interactions.csv"
    with open_ratings([RawFile(path, path.name)], reading or ReadSettings(), Rules()) as ratings:
        ratings.write_interactions(target)
    return target.read_text().splitlines()[1:]


def read_refusal(path: Path, reading: ReadSettings | None = None) -> str:
    with pytest.raises(PreparationError) as error:
        read(path, reading)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_workbook(path: Path, *sheets: str, first: int = 0) -> Path:
    book = xlsxwriter.Workbook(path)
    day = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    for name in sheets:
        sheet = book.add_worksheet(name)
        if name == "Empty":
            continue
        sheet.write_row(first, 0, ["user", "item", "time"])
        sheet.write_row(first + 1, 0, ["007", "x"])
        sheet.write_datetime(first + 1, 2, datetime(2020, 1, 2, 12, 0, 5), day)
        sheet.write_row(first + 2, 0, [8, "z"])
        sheet.write_datetime(first + 2, 2, datetime(2020, 1, 2, 12, 0, 6), day)
    book.close()
    return path


def write_csv(path: Path, pack: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(pack(FRAME.write_csv().encode()))
    return path


def write_array(path: Path) -> Path:
    path.write_text("\ufeff" + json.dumps(FRAME.to_dicts(), indent=2))
    return path


MADE: dict[str, Callable[[Path], Path]] = {
    "Excel": lambda path: write_workbook(path, "Orders", "Empty"),
    "JSON array": write_array,
    "UTF-16": lambda path: write_csv(path, lambda text: text.decode().encode("utf-16")),
}


ITEMS: list[dict[str, Any]] = [
    {"sku": "007", "name": "Größe", "price": 2.5},
    {"sku": "", "name": None, "price": 1.0},
]


@pytest.mark.parametrize("kind", ["Excel", "JSON array", "JSON Lines", "Parquet"])
def test_items_may_be_in_them_too(tmp_path: Path, kind: str) -> None:
    path, frame = tmp_path / "items", pl.DataFrame(ITEMS)
    if kind == "Excel":
        book = xlsxwriter.Workbook(path)
        rows = [list(ITEMS[0]), *(["" if v is None else v for v in row.values()] for row in ITEMS)]
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
        book.close()
    elif kind.startswith("JSON"):
        lines = [json.dumps(item, ensure_ascii=False) for item in ITEMS]
        path.write_text("\n".join(lines) if kind == "JSON Lines" else f"[{', '.join(lines)}]")
    else:
        frame.write_parquet(path)
    layout = ItemsLayout(None, "sku", title="name", numbers={"PRICE": "price"})
    read = parse_items(RawFile(path, "items"), layout)
    assert read.titles.rows() == [("007", "Größe")]
    assert read.metadata.rows() == [("007", 2.5)]
    place = {"Excel": "row 3", "JSON array": "element 2", "JSON Lines": "line 2"}.get(kind, "row 2")
    assert read.bad.examples[0].startswith(f"items, {place}: no item")


@pytest.mark.parametrize("kind", MADE)
def test_an_unusual_format_is_read_as_any_other(tmp_path: Path, kind: str) -> None:
    assert read(MADE[kind](tmp_path / "data")) == WRITTEN


def test_a_row_of_a_workbook_is_named_by_its_number_there(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "book.xlsx", "Orders", first=3)
    message = read_refusal(path, ReadSettings(null_values=["z"]))
    assert message.startswith("book.xlsx, row 6: an id that means no value")


JSON = '{"user": 1, "item": "[,]", "time": 1500000000}'


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (f"[{JSON},\r\n {JSON}]\n", 0),
        (f"[{JSON},{JSON}", 1),
        (f'[{JSON},{JSON},{{"user": 1, "it', 1),
        (f"[{JSON},{JSON},", 1),
        (f"[{JSON},{JSON}, 12]", 1),
        (f"[{JSON},{JSON}] and more", 1),
    ],
)
def test_an_array_that_does_not_end_has_a_bad_row(tmp_path: Path, text: str, bad: int) -> None:
    (tmp_path / "data.json").write_text(text)
    with open_ratings(
        [RawFile(tmp_path / "data.json", "a")], ReadSettings(), Rules("skip")
    ) as ratings:
        inspection = ratings.inspect_rows()
    assert inspection.rows_read - inspection.bad.total == 2
    assert inspection.bad.total == bad


@pytest.mark.parametrize("elements", [1, pytest.param(40_000, marks=pytest.mark.slow)])
def test_the_elements_of_a_long_array_stay_as_they_are(tmp_path: Path, elements: int) -> None:
    rows = [f'{{"user": "é{n}", "item": {n}e0, "time": {SECONDS}}}' for n in range(elements)]
    (tmp_path / "data.json").write_text("[" + ",\n".join(rows) + "]")
    assert read(tmp_path / "data.json") == [f"é{n},{n}e0,{SECONDS}" for n in range(elements)]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"Obj\x01\x04\x16avro.codec\x08null", "an Avro file"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"<!DOCTYPE html>\n<html>Please log in", "a web page"),
        (b"<?xml version='1.0'?><rows/>", "an XML file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x80\x04\x95\x01\x02\x03", "a Python pickle"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"ARROW1\0\0", "a Feather or Arrow file"),
        (bz2.compress(b"user,item"), "a file packed with bzip2"),
        (lzma.compress(b"user,item"), "a file packed with xz"),
        (bytes(range(256)), "a binary file"),
    ],
)
def test_another_format_is_called_by_its_name(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "data.csv").write_bytes(content)
    assert read_refusal(tmp_path / "data.csv").startswith(f"data.csv: it is {name}")


def test_an_orc_file_is_called_by_its_name(tmp_path: Path) -> None:
    orc = pytest.importorskip("pyarrow.orc")
    orc.write_table(FRAME.to_arrow(), tmp_path / "orders.orc")
    assert read_refusal(tmp_path / "orders.orc").startswith("orders.orc: it is an ORC file")


def test_several_sheets_are_named(tmp_path: Path) -> None:
    write_workbook(tmp_path / "book.xlsx", "Orders", "Old orders")
    assert "several sheets (Orders, Old orders): name one" in read_refusal(tmp_path / "book.xlsx")
    context = SourceContext(
        ObjectStore({"lake": tmp_path}), tmp_path, tmp_path / "cache", generator
    )
    (listed_file,) = parse_source("book.xlsx!/Old orders").files(context)
    with listed_file.file.open_locally(context) as path:
        assert read(path) == WRITTEN
    with (
        pytest.raises(SourceError, match="it has no sheet 'x'; it has: Orders, Old orders"),
        parse_source("book.xlsx!/x").files(context)[0].file.open_locally(context),
    ):
        pass


def test_files_of_several_formats_are_an_error(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", bytes)
    FRAME.write_parquet(tmp_path / "b.parquet")
    files = [RawFile(tmp_path / name, name) for name in ("a.csv", "b.parquet")]
    for reading in (ReadSettings(), ReadSettings(format="csv")):
        with (
            pytest.raises(PreparationError, match=r"b\.parquet is parquet.*Name those of one"),
            open_ratings(files, reading, Rules()),
        ):
            pass


def test_a_workbook_that_unfolds_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.00000001")
    assert "BATCHREC_MAX_FILE_GB allows" in read_refusal(
        write_workbook(tmp_path / "b.xlsx", "Orders")
    )
