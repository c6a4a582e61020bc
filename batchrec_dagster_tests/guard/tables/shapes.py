"""Shapes of people's data, with a small file for each, and the options that read it rightly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrec_dagster_tests.guard.tables.shape_files import (
    FIRST_DAYS,
    HEADER,
    PLAIN,
    ROWS,
    Row,
    csv_file,
    plain,
    write_cp1252,
    write_folder,
    write_json,
    write_parquet,
    write_quoted,
    write_sheets,
    write_text,
    write_twelve_hours,
    write_zip,
)


@dataclass(frozen=True)
class Shape:
    """A shape of data."""

    name: str
    """The name of the shape."""

    write: Callable[[Path], str]
    """The function that writes the file into a folder and returns the source."""

    message: str = ""
    """The message of the first try if it fails; for a refused shape, the reason."""

    options: Sequence[str] = ()
    """The options of the second try, which the message names."""

    precision: int = 1
    """The precision of the written times in seconds; 0 without times."""

    rows: Sequence[Row] = ()
    """The interactions in the file, if they differ from ROWS."""

    @property
    def expected_rows(self) -> list[tuple[str, str, int]]:
        """Return the user, item and time of each interaction, in order; the time may be 0."""
        precision = self.precision
        return sorted(
            (row.user, row.item, row.seconds - row.seconds % precision if precision else 0)
            for row in self.rows or ROWS
        )


def timed(time: str, precision: int = 1, *, quoted: bool = False) -> dict[str, Any]:
    """Return the arguments of a shape with times in this strftime format."""
    template = '{u},{i},"{t}"' if quoted or "," in time else "{u},{i},{t}"
    return {
        "write": csv_file(template=template, time=time),
        "precision": precision,
    }


REPORT = "Orders of May;;\n\nMade by;Ann;2024-06-01\n"


SHAPES = [
    # Ways to write CSV.
    Shape("Commas and a header", csv_file()),
    Shape(
        "Semicolons, decimal commas",
        csv_file("user_id;item_id;rating;timestamp", template="{u};{i};4,5;{t}"),
    ),
    Shape("Tabs", csv_file("user\titem\ttime", template="{u}\t{i}\t{t}")),
    Shape("Pipes", csv_file("user|item|time", template="{u}|{i}|{t}")),
    Shape("Double colons, no header", csv_file("", template="{u}::{i}::5::{t}")),
    Shape("No header", csv_file("")),
    Shape(
        "No header, text alone",
        csv_file("", template="{u},{i}"),
        message="has no header",
        options=["--user", "1", "--item", "2", "--time", "none"],
        precision=0,
    ),
    Shape(
        "`sep=;` for Excel",
        csv_file("sep=;\nuser_id;item_id;timestamp", template="{u};{i};{t}"),
    ),
    Shape(
        "A report's title",
        csv_file(f"{REPORT}user_id;item_id;timestamp", template="{u};{i};{t}"),
    ),
    Shape("Comments", csv_file(f"# by Ann, today\n#\n{HEADER}")),
    Shape("Blank lines first", csv_file(f"\n\n{HEADER}")),
    Shape("Quotes and line breaks", write_quoted),
    Shape(
        "Two unused columns of a name",
        csv_file("user_id,item_id,note,note,timestamp", template="{u},{i},a,b,{t}"),
    ),
    Shape(
        "Two used columns of a name",
        csv_file("id,id,timestamp"),
        message="couldn't recognise the user and item columns",
        options=["--user", "1", "--item", "2", "--time", "3"],
    ),
    Shape("A BOM", write_text("orders.csv", "\ufeff" + PLAIN)),
    Shape("UTF-16", write_text("orders.csv", PLAIN.encode("utf-16"))),
    Shape("cp1252", write_cp1252),
    Shape("CRLF", write_text("orders.csv", PLAIN.replace("\n", "\r\n"))),
    Shape(
        "A delimiter at each end",
        csv_file(f"{HEADER},", template="{u},{i},{t},"),
    ),
    Shape(
        "Names of one's own",
        csv_file("Kunde,Artikel,Wann", time="%Y-%m-%d %H:%M:%S"),
        message="--user Kunde --item Artikel",
        options=["--user", "Kunde", "--item", "Artikel"],
    ),
    Shape(
        "Shopify's orders",
        csv_file(
            "Name,Email,Created at,Lineitem sku,Paid at",
            template="#1001,{u},{t},{i},",
            time="%Y-%m-%d %H:%M:%S +0000",
        ),
        message="couldn't recognise the user and item columns",
        options=["--user", "Email", "--item", "Lineitem sku"],
    ),
    Shape(
        "A last line that is cut off",
        write_text("orders.csv", f"{PLAIN}u1,i"),
        message="--on-bad-rows skip",
        options=["--on-bad-rows", "skip"],
    ),
    Shape(
        "NULL for an id",
        write_text("orders.csv", f"{PLAIN}NULL,i1,1705154706\n"),
        message="--on-bad-rows skip",
        options=["--on-bad-rows", "skip"],
    ),
    # Files.
    Shape("gzip", write_text("orders.csv.gz", gzip.compress(PLAIN.encode()))),
    Shape("A zip with one file", write_zip(orders=PLAIN)),
    Shape(
        "A zip with several files",
        write_zip(orders=PLAIN, customers="id\n1\n"),
        message="it has orders.csv, customers.csv: add !/ and the path of one",
        options=["!/orders.csv"],
    ),
    Shape("A folder of months", write_folder),
    Shape(
        "Excel",
        write_sheets(
            {"Orders": [["Customer", "SKU", "Date"], *([r.user, r.item, r.time] for r in ROWS)]}
        ),
    ),
    Shape(
        "Excel with a title",
        write_sheets(
            {
                "Orders": [
                    ["Orders of May"],
                    [],
                    ["Customer", "SKU", "Date"],
                    *([row.user, row.item, row.time] for row in ROWS),
                ]
            }
        ),
    ),
    Shape(
        "Excel with several sheets",
        write_sheets(
            {
                "About": [["Made by Ann"]],
                "Orders": [
                    ["Customer", "SKU", "Date"],
                    *([row.user, row.item, row.time] for row in ROWS),
                ],
            }
        ),
        message="it has several sheets (About, Orders): name one, FILE!/SHEET",
        options=["!/Orders"],
    ),
    Shape("Parquet", write_parquet),
    # JSON.
    Shape("JSON Lines", write_json(*map(plain, ROWS))),
    Shape(
        "A JSON array",
        write_text("orders.json", json.dumps([*map(plain, ROWS)], indent=1)),
    ),
    # Times.
    Shape("Milliseconds", csv_file(template="{u},{i},{t}000")),
    Shape("Seconds with a fraction", csv_file(template="{u},{i},{t}.25")),
    Shape(name="ISO 8601", **timed("%Y-%m-%dT%H:%M:%S.000Z")),
    Shape(name="ISO 8601 and a zone behind a blank", **timed("%Y-%m-%d %H:%M:%S +0000")),
    Shape(name="Days of 8 digits", **timed("%Y%m%d", 86_400)),
    Shape(name="Times of 14 digits", **timed("%Y%m%d%H%M%S")),
    Shape("US times of 12 hours", write_twelve_hours),
    Shape(name="German times", **timed("%d.%m.%Y %H:%M", 60)),
    Shape(
        "Days that may be months",
        csv_file(rows=FIRST_DAYS, time="%d/%m/%Y"),
        message='"%d/%m/%Y" or "%m/%d/%Y". Here: --time-format',
        options=["--time-format", "%d/%m/%Y"],
        precision=86_400,
        rows=FIRST_DAYS,
    ),
    Shape(name="Names of months", **timed("%d-%b-%Y", 86_400)),
    Shape(name="Times of mails", **timed("%a, %d %b %Y %H:%M:%S +0000")),
    Shape(name="Times of Twitter", **timed("%a %b %d %H:%M:%S +0000 %Y")),
    Shape(name="Times of Apache", **timed("%d/%b/%Y:%H:%M:%S +0000")),
    Shape(
        "Excel's days",
        csv_file(template="{u},{i},{d}"),
        message="ratings.timestamp_unit: excel",
        options=["--time-format", "excel"],
    ),
    Shape(
        "No times",
        csv_file("user_id,item_id", template="{u},{i}"),
        message="--time none",
        options=["--time", "none"],
        precision=0,
    ),
    Shape(
        "Two columns of times",
        csv_file("user_id,item_id,registered_at,date", template="{u},{i},2020-01-01,{t}"),
    ),
    Shape(
        "A time in the future",
        write_text("orders.csv", f"{PLAIN}u1,i1,2900000000\n"),
        message="the timestamp is in the future",
        options=["--on-bad-rows", "skip"],
    ),
    # Numbers.
    Shape(
        "Points between thousands",
        csv_file("user_id;item_id;rating;timestamp", template="{u};{i};1.234,5;{t}"),
    ),
]
REFUSED = [
    Shape(
        "Objects in objects",
        write_json(
            *(
                {"user": {"id": row.user}, "product": {"id": row.item}, "ts": row.seconds}
                for row in ROWS
            )
        ),
        'user, product have objects or lists in place of values: write a query, as under "Nested',
    ),
    Shape(
        "Rows within one object",
        write_text("orders.json", json.dumps({"next": 2, "data": [*map(plain, ROWS)]}, indent=1)),
        'For rows within one object, write a query, as under "Nested JSON" in docs/own-data.md',
    ),
    Shape("Avro", write_text("orders.avro", b"Obj\x01\x04"), "an Avro file"),
    Shape("ORC", write_text("orders.orc", b"ORC\x08\x01\x02\x03\x04"), "an ORC file"),
    Shape("pickle", write_text("orders.pkl", b"\x80\x04\x95\x01\x02"), "a Python pickle"),
    Shape("R data", write_text("orders.rda", b"RDX3\nX\n"), "an R data file"),
    Shape("XML", write_text("orders.xml", "<?xml version='1.0'?>"), "an XML file"),
    Shape("A web page", write_text("a.csv", "<!DOCTYPE html>"), "a web page"),
    Shape("7-Zip", write_text("orders.7z", b"7z\xbc\xaf\x27\x1c\0"), "a 7-Zip archive"),
    Shape("SQLite", write_text("orders.db", b"SQLite format 3\0"), "an SQLite database"),
    Shape("Feather", write_text("orders.feather", b"ARROW1\0\0"), "a Feather or Arrow file"),
    Shape("bzip2", write_text("orders.csv.bz2", b"BZh91AY"), "a file packed with bzip2"),
    Shape("PDF", write_text("orders.pdf", "%PDF-1.7\n"), "a PDF"),
]
