"""Tests of reading files in any format, packing and encoding, recognised or declared."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import xlsxwriter

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.seams import preparation

SECONDS = 1_577_966_405
COLUMNS = {"user": "u", "item": "i", "timestamp": "t"}
CSV = f"u,i,t\n01,x,{SECONDS}\n"
LINES = f'{{"u": "01", "i": "x", "t": {SECONDS}}}\n'
FRAME = pl.DataFrame(
    {"user": ["007", "8"], "item": ["x", "z"], "time": [SECONDS, SECONDS + 1]},
)
EXPECTED = [("007", "x", SECONDS), ("8", "z", SECONDS + 1)]


def read(folder: Path, source: str, **ratings: Any) -> preparation.Interactions:
    return preparation.prepare(folder, {"ratings": {"source": source, **ratings}})


def read_refusal(folder: Path, source: str, **ratings: Any) -> str:
    """Return the one-line message that refuses the source, and require that nothing is written."""
    with pytest.raises(preparation.UserError) as error:
        read(folder, source, **ratings)
    assert "\n" not in str(error.value)
    assert not (folder / "interactions.csv").exists()
    return str(error.value)


def encode_parquet(frame: pl.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    frame.write_parquet(sink)
    return bytes(sink.getvalue())


def compress_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def write_workbook(path: Path, *sheets: str, first: int = 0) -> str:
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
    return path.name


# Formats and packing


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": compress_zstd,
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_the_format_is_seen_by_the_file_itself(tmp_path: Path, form: str, packing: str) -> None:
    frame = pl.DataFrame({"u": ["01"], "i": ["x"], "t": [SECONDS]})
    content = {
        "csv": CSV.encode(),
        "json": LINES.encode(),
        "parquet": encode_parquet(frame),
    }[form]
    # The file's name does not tell its format.
    source = write_source(tmp_path, PACKINGS[packing](content), "data.file")
    interactions = read(tmp_path, source, columns=COLUMNS)
    assert interactions.rows == [("01", "x", SECONDS)]
    assert interactions.rows_read == 1


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_truncated_packed_file_is_refused(tmp_path: Path, packing: str) -> None:
    packed = PACKINGS[packing]((CSV * 1000).encode())
    message = read_refusal(tmp_path, write_source(tmp_path, packed[:-5]), columns=COLUMNS)
    assert message.startswith("data.csv: it is damaged (")


@pytest.mark.parametrize(("real", "declared"), [("parquet", "csv"), ("csv", "parquet")])
def test_a_file_that_has_become_another_format_is_refused(
    tmp_path: Path, real: str, declared: str
) -> None:
    content = encode_parquet(FRAME) if real == "parquet" else CSV.encode()
    message = read_refusal(tmp_path, write_source(tmp_path, content), format=declared)
    assert message == f"data.csv is {real}, and format says {declared}: omit format"


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    source = write_source(tmp_path, encode_parquet(pl.DataFrame({"u": ["a"]}))[:-20])
    assert "is damaged or not Parquet" in read_refusal(tmp_path, source)


def test_the_only_sheet_of_a_workbook_is_read_as_any_other_file(tmp_path: Path) -> None:
    source = write_workbook(tmp_path / "book.xlsx", "Orders", "Empty")
    assert read(tmp_path, source).rows == EXPECTED


def test_a_row_of_a_workbook_is_named_by_its_number_there(tmp_path: Path) -> None:
    source = write_workbook(tmp_path / "book.xlsx", "Orders", first=3)
    message = read_refusal(tmp_path, source, null_values=["z"])
    assert message.startswith("book.xlsx, row 6: an id that means no value")


def test_one_of_several_sheets_has_to_be_named(tmp_path: Path) -> None:
    source = write_workbook(tmp_path / "book.xlsx", "Orders", "Old orders")
    message = read_refusal(tmp_path, source)
    assert "several sheets (Orders, Old orders): name one" in message
    message = read_refusal(tmp_path, f"{source}!/x")
    assert "it has no sheet 'x'; it has: Orders, Old orders" in message
    assert read(tmp_path, f"{source}!/Old orders").rows == EXPECTED


ROW = '{"user": 1, "item": "[,]", "time": 1500000000}'


@pytest.mark.parametrize("text", [f"[{ROW},\r\n {ROW}]\n", f"\ufeff[{ROW},\n {ROW}]"])
def test_an_array_of_json_is_read_as_json_lines(tmp_path: Path, text: str) -> None:
    interactions = read(tmp_path, write_source(tmp_path, text, "data.json"))
    assert interactions.rows == [("1", "[,]", 1_500_000_000)] * 2


@pytest.mark.parametrize(
    "text",
    [
        f"[{ROW},{ROW}",
        f'[{ROW},{ROW},{{"user": 1, "it',
        f"[{ROW},{ROW}, 12]",
        f"[{ROW},{ROW}] and more",
    ],
)
def test_an_array_of_json_that_is_cut_or_goes_on_is_refused(tmp_path: Path, text: str) -> None:
    assert "data.json" in read_refusal(tmp_path, write_source(tmp_path, text, "data.json"))


@pytest.mark.parametrize(
    ("cell", "user"),
    [
        *(("7", "7"), ("true", "true"), ('"007"', "007"), ('"é\\u00e9"', "éé")),
        *(("12345678901234567890", "12345678901234567890"), ('" 7"', " 7")),
        *(("null", None), ("[1]", None), ("{}", None), ('""', None), ('"NULL"', None)),
    ],
)
def test_values_of_json_are_ids_or_bad_rows(tmp_path: Path, cell: str, user: str | None) -> None:
    source = write_source(tmp_path, f'{LINES}{{"u": {cell}, "i": "x", "t": {SECONDS}}}\n')
    interactions = read(tmp_path, source, columns=COLUMNS, on_bad_rows="skip")
    expected = [("01", "x", SECONDS)] + ([] if user is None else [(user, "x", SECONDS)])
    assert interactions.rows == expected
    assert interactions.rows_read == 2


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"u": [1.0], "i": [1], "t": [1]}, "'u' (ratings.columns.user) is of type Float64"),
        ({"u": [[1]], "i": [1], "t": [1]}, "'u' (ratings.columns.user) is of type List(Int64)"),
    ],
)
def test_parquet_columns_that_cannot_be_ids_are_refused(
    tmp_path: Path, frame: dict[str, list[object]], message: str
) -> None:
    source = write_source(tmp_path, encode_parquet(pl.DataFrame(frame)))
    assert message in read_refusal(tmp_path, source, columns=COLUMNS)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"Obj\x01\x04\x16avro.codec\x08null", "an Avro file"),
        (b"ORC\x08\x01\x02\x03\x04", "an ORC file"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"<!DOCTYPE html>\n<html>Please log in", "a web page"),
        (b"<?xml version='1.0'?><rows/>", "an XML file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x80\x04\x95\x01\x02\x03", "a Python pickle"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"ARROW1\0\0", "a Feather or Arrow file"),
        (bz2.compress(b"user,item"), "a file packed with bzip2"),
        (lzma.compress(b"user,item"), "a file packed with xz"),
        (gzip.compress(gzip.compress(b"user,item", mtime=0), mtime=0), "packed twice"),
        (bytes(range(256)), "a binary file"),
    ],
)
def test_another_format_is_called_by_its_name(tmp_path: Path, content: bytes, name: str) -> None:
    message = read_refusal(tmp_path, write_source(tmp_path, content))
    assert message.startswith(f"data.csv: it is {name}")


# Many files


def test_many_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    second = f"t,i,u\n{SECONDS + 1},y,b\n{SECONDS + 2},z,c\n"
    source = write_source(tmp_path, {"b.csv": second, "a.csv": CSV, "c.csv": ""})
    interactions = read(tmp_path, source, columns=COLUMNS)
    assert interactions.rows == [
        ("01", "x", SECONDS),
        ("b", "y", SECONDS + 1),
        ("c", "z", SECONDS + 2),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": CSV, "b.csv": "u,i\n1,2\n"}, "b.csv has no column 't' (ratings.columns"),
        ({"a.csv": CSV, "b.csv": encode_parquet(FRAME)}, "b.csv is parquet"),
        ({"a.csv": CSV, "b.csv": LINES}, "b.csv is json"),
        (
            {"a.csv": f"u,i,t\na,b,{SECONDS}\n", "b.csv": f"u,i,t\na,b,{SECONDS}\na,b,never\n"},
            "b.csv, line 3: the timestamp is not a number",
        ),
        (
            {"a.csv": f"u,i,t\na,b,{SECONDS}\n", "b.csv": f"u,i,t\na,b,{SECONDS}000\n"},
            "b.csv, line 2: the timestamp is in milliseconds",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_others_is_named(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    assert message in read_refusal(tmp_path, write_source(tmp_path, files), columns=COLUMNS)


# Encodings


@pytest.mark.parametrize(
    ("content", "declared", "user"),
    [
        ("é".encode(), "auto", "é"),
        (b"\xe9", "auto", "é"),
        (b"\x8015\x92s", "auto", "€15\u2019s"),
        ("Größe".encode("cp1252"), "auto", "Größe"),
        ("Москва".encode("cp1251"), "cp1251", "Москва"),
        ("羅生門".encode("shift_jis"), "shift_jis", "羅生門"),
        (b"\xe9", "latin-1", "é"),
        (b"\xc3\xa9", "latin-1", "Ã©"),
    ],
)
def test_the_encoding_is_declared_or_found_out(
    tmp_path: Path, content: bytes, declared: str, user: str
) -> None:
    source = write_source(tmp_path, CSV.encode().replace(b"01", content))
    interactions = read(tmp_path, source, columns=COLUMNS, encoding=declared)
    assert interactions.rows == [(user, "x", SECONDS)]
    # A guessed encoding is reported.
    assert bool(interactions.warnings) == (content != "é".encode() and declared == "auto")
    assert all("read as cp1252" in warning for warning in interactions.warnings)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path, encoding: str) -> None:
    text = CSV if encoding != "utf-16-le" else "\ufeff" + CSV
    source = write_source(tmp_path, text.encode(encoding))
    assert read(tmp_path, source, columns=COLUMNS).rows == [("01", "x", SECONDS)]


def test_settings_of_csv_are_refused_for_other_formats(tmp_path: Path) -> None:
    source = write_source(tmp_path, LINES)
    assert "is json, whose numbers have a point" in read_refusal(tmp_path, source, decimal=",")
    message = read_refusal(tmp_path, write_source(tmp_path, json.dumps({"user": 1})), header=1)
    assert "is json, whose columns have names: omit header" in message
