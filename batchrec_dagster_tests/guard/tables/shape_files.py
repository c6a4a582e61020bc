"""Files of the shapes: the same interactions, written in many ways."""

from __future__ import annotations

import csv
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

# As many rows as Personalize needs, with days after the 12th of a month.
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
# Interactions on days that could be read as months.
FIRST_DAYS = [
    Row(row.user, row.item, datetime(2024, 1 + number % 6, 1 + number % 12, tzinfo=UTC))
    for number, row in enumerate(ROWS)
]


def write_text(name: str, content: str | bytes) -> Callable[[Path], str]:
    """Return a function that writes a file with this name and content."""

    def write(root: Path) -> str:
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def format_lines(
    template: str, header: str = "", rows: Iterable[Row] = ROWS, time: str | None = None
) -> str:
    """Return the header and a line for each row.

    template: a line with {u}, {i}, {t} and {d} for the user, the item, the time, and the time in
        Excel's days.
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
    """Return a function that writes a CSV file with these differences from the plain file."""
    template = options.pop("template", "{u},{i},{t}")
    return write_text("orders.csv", format_lines(template, header, **options))


def write_json(*values: Mapping[str, Any]) -> Callable[[Path], str]:
    return write_text("orders.jsonl", "".join(json.dumps(value) + "\n" for value in values))


def write_sheets(sheets: Mapping[str, Sequence[Sequence[Any]]]) -> Callable[[Path], str]:
    """Return a function that writes a workbook with these rows on each sheet."""

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
