"""Shapes in which people have their data: for each a small file, and what it takes to be right."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import xlsxwriter

# As many as Personalize needs, with days after the 12th of a month.
START = datetime(2024, 1, 13, 14, 5, 6, tzinfo=UTC)
STEP = timedelta(hours=8, minutes=1)


@dataclass(frozen=True)
class Row:
    """An interaction."""

    user: str
    item: str
    time: datetime

    @property
    def seconds(self) -> int:
        return int(self.time.timestamp())


ROWS = [Row(f"u{n % 40}", f"i{n // 40}", START + n * STEP) for n in range(1000)]
# Interactions on days that may be months.
FIRST_DAYS = [
    Row(row.user, row.item, datetime(2024, 1 + number % 6, 1 + number % 12, tzinfo=UTC))
    for number, row in enumerate(ROWS)
]


@dataclass(frozen=True)
class Shape:
    """A shape of data."""

    name: str
    """What it is called."""

    write: Callable[[Path], str]
    """Writes it into a folder. Returns the source."""

    message: str = ""
    """What the first try says, if it is not right; of a shape that is refused, why."""

    options: Sequence[str] = ()
    """The options of the second try, as the message says."""

    precision: int = 1
    """To how many seconds the times are written; 0 if there are none."""

    rows: Sequence[Row] = ()
    """The interactions in it, if they are not ROWS."""

    @property
    def expected_rows(self) -> list[tuple[str, str, int]]:
        """The user, the item and the time of each interaction, in order; 0 without times."""
        precision = self.precision
        return sorted(
            (row.user, row.item, row.seconds - row.seconds % precision if precision else 0)
            for row in self.rows or ROWS
        )


def write_text(name: str, content: str | bytes) -> Callable[[Path], str]:
    """Writes one file."""

    def write(root: Path) -> str:
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def format_lines(
    template: str, header: str = "", rows: Iterable[Row] = ROWS, time: str | None = None
) -> str:
    """A line for each row, below the header.

    template: with {u}, {i}, {t} and {d} for its user, item, time, and its time in Excel's days.
    time: the strftime format of the times; None for seconds since 1970.
    """
    lines = [header] if header else []
    for row in rows:
        text = row.time.strftime(time) if time else str(row.seconds)
        days = f"{row.seconds / 86_400 + 25_569:.9f}"
        cells = {"{u}": row.user, "{i}": row.item, "{t}": text, "{d}": days}
        line = template
        for name, cell in cells.items():
            line = line.replace(name, cell)
        lines.append(line)
    return "\n".join(lines) + "\n"


def csv_file(header: str = "user_id,item_id,timestamp", **options: Any) -> Callable[[Path], str]:
    """Writes a plain CSV file, of which something is different."""
    template = options.pop("template", "{u},{i},{t}")
    return write_text("orders.csv", format_lines(template, header, **options))


def timed(time: str, precision: int = 1, *, quoted: bool = False) -> dict[str, Any]:
    """The file of a shape whose times are in this strftime format."""
    template = '{u},{i},"{t}"' if quoted or "," in time else "{u},{i},{t}"
    return {
        "write": csv_file(template=template, time=time),
        "precision": precision,
    }


def write_json(*values: Mapping[str, Any]) -> Callable[[Path], str]:
    return write_text("orders.jsonl", "".join(json.dumps(value) + "\n" for value in values))


def write_sheets(sheets: Mapping[str, Sequence[Sequence[Any]]]) -> Callable[[Path], str]:
    """Writes a workbook with these rows on each sheet."""

    def write(root: Path) -> str:
        book = xlsxwriter.Workbook(root / "orders.xlsx", {"remove_timezone": True})
        form = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                for column, cell in enumerate(row):
                    if isinstance(cell, datetime):
                        sheet.write_datetime(number, column, cell, form)
                    else:
                        sheet.write(number, column, cell)
        book.close()
        return "orders.xlsx"

    return write


def write_parquet(root: Path) -> str:
    frame = pl.DataFrame(
        {
            "user_id": [row.user for row in ROWS],
            "item_id": [row.item for row in ROWS],
            "created_at": [row.time for row in ROWS],
        }
    )
    frame.write_parquet(root / "orders.parquet")
    return "orders.parquet"


def write_zip(**members: str) -> Callable[[Path], str]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.csv", content)
    return write_text("orders.zip", file.getvalue())


def write_folder(root: Path) -> str:
    for number in range(3):
        part = ROWS[number::3]
        folder = root / f"data/2024-0{number + 1}"
        folder.mkdir(parents=True)
        (folder / "part.csv").write_text(format_lines("{u},{i},{t}", HEADER, part))
    (root / "data/README.md").write_text("Orders, one file for each month.")
    return "data/"


def write_quoted(root: Path) -> str:
    with (root / "orders.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["user_id", "item_id", "title", "timestamp"])
        for row in ROWS:
            writer.writerow([row.user, row.item, 'A 27" screen,\nblack', row.seconds])
    return "orders.csv"


HEADER = "user_id,item_id,timestamp"
PLAIN = format_lines("{u},{i},{t}", HEADER)
REPORT = "Orders of May;;\n\nMade by;Ann;2024-06-01\n"


def plain(row: Row) -> dict[str, Any]:
    return {"user_id": row.user, "item_id": row.item, "ts": row.seconds * 1_000}


def write_cp1252(root: Path) -> str:
    text = format_lines("{u};{i};{t};Größe für Männer", "user_id;item_id;timestamp;title")
    return write_text("orders.csv", text.encode("cp1252"))(root)


def twelve_hours(time: datetime) -> str:
    return f"{time.month}/{time.day}/{time:%Y} {time.hour % 12 or 12}:{time:%M:%S %p}"


def write_twelve_hours(root: Path) -> str:
    lines = [f"{row.user},{row.item},{twelve_hours(row.time)}" for row in ROWS]
    (root / "orders.csv").write_text("\n".join([HEADER, *lines]))
    return "orders.csv"


SHAPES = [
    # How CSV is written.
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
