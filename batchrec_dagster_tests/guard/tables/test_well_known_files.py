"""Tests of the table in docs/own-data.md: each row's YAML reads a file of that shape."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import xlsxwriter
import yaml

from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.seams import preparation

# The time is in the afternoon, so that time zones change the hour but not the day.
NOON = datetime(2024, 1, 31, 12, 0, 5, tzinfo=UTC)
SECONDS = int(NOON.timestamp())
Expected = list[tuple[str, ...]]
PAIRS: Expected = [("u1", "i1"), ("u2", "i2")]
WITHOUT_TIMES = ("Book-Crossing", "Last.fm 360K", "Steam 200K")


def read_documented_shapes() -> dict[str, str]:
    """Return the YAML of each shape."""
    text = (REPOSITORY / "docs/own-data.md").read_text().partition("## Well-known files")[2]
    rows = re.findall(r"^\| (.+?) \| (.+) \| (`.+`) \|$", text.partition("\n## ")[0], re.MULTILINE)
    return {shape: "\n".join(re.findall("`([^`]+)`", cell)) for shape, _, cell in rows}


def write_amazon(root: Path) -> Expected:
    reviews = [("u1", "i1", 5.0), ("u2", "i2", 4.0), ("u2", "i1", 2.0)]
    lines = [
        {"overall": stars, "reviewerID": user, "asin": item, "unixReviewTime": SECONDS}
        for user, item, stars in reviews
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "Books_5.json.gz").write_bytes(gzip.compress(text.encode()))
    return PAIRS


def write_book_crossing(root: Path) -> Expected:
    rows = ['"User-ID";"ISBN";"Book-Rating"', '"u1";"i1";"8"', '"u1";"Größe";"0"', '"u2";"i2";"10"']
    (root / "BX-Book-Ratings.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    return PAIRS


def write_excel(root: Path) -> Expected:
    book = xlsxwriter.Workbook(root / "shop.xlsx")
    book.add_worksheet("About").write(0, 0, "Exported on Monday")
    sheet = book.add_worksheet("Orders")
    form = book.add_format({"num_format": "dd.mm.yyyy hh:mm"})
    local_noon = NOON.astimezone(ZoneInfo("Europe/Berlin")).replace(tzinfo=None)
    sheet.write_row(0, 0, ["Customer", "SKU", "Ordered"])
    for row in (1, 2):
        sheet.write_row(row, 0, [f"u{row}", f"i{row}"])
        sheet.write_datetime(row, 2, local_noon, form)
    book.close()
    return PAIRS


def write_google_sheet(root: Path) -> Expected:
    local_noon = NOON.astimezone(ZoneInfo("America/New_York"))
    time = (
        f"{local_noon.month}/{local_noon.day}/{local_noon:%Y} {local_noon.hour}:{local_noon:%M:%S}"
    )
    (root / "sheet").write_text(f"Timestamp,Who,What\r\n{time},u1,i1\r\n{time},u2,i2")
    return PAIRS


def write_last_fm(root: Path) -> Expected:
    lines = ["u1\tmbid\ti1\t13\n", "u2\t\ti2\t1\n", 'u2\t\t"Weird Al\t1\n']
    (root / "usersha1-artmbid-artname-plays.tsv").write_text("".join(lines))
    return [*PAIRS, ("u2", '"Weird Al')]


def write_movielens(root: Path) -> Expected:
    lines = [f"u1,i1,4.0,{SECONDS}", f"u2,i2,3.5,{SECONDS}", f"u2,i1,3.0,{SECONDS}"]
    with zipfile.ZipFile(root / "ml.zip", "w") as archive:
        text = "\n".join(["userId,movieId,rating,timestamp", *lines])
        archive.writestr("ml-latest-small/ratings.csv", text)
    return PAIRS


def write_retail_rocket(root: Path) -> Expected:
    events = [
        ("u1", "transaction", "i1", 7),
        ("u1", "view", "i2", ""),
        ("u2", "addtocart", "i2", ""),
    ]
    lines = [f"{SECONDS}123,{user},{event},{item},{n}" for user, event, item, n in events]
    (root / "events.csv").write_text(
        "\n".join(["timestamp,visitorid,event,itemid,transactionid", *lines])
    )
    return [("u1", "i1", "transaction"), ("u2", "i2", "addtocart")]


def write_snowflake(root: Path) -> Expected:
    (root / "unload").mkdir()
    local_noon = NOON - timedelta(hours=8)
    time = f"{local_noon:%Y-%m-%d %H:%M:%S}.678 -0800"
    for number in (1, 2):
        lines = f'u{number},"i{number}",{time}\n' + rf"\N,i1,{time}" + "\n"
        path = root / "unload" / f"data_0_{number}_0.csv.gz"
        path.write_bytes(gzip.compress(lines.encode()))
    return PAIRS


def write_steam(root: Path) -> Expected:
    lines = ["u1,i1,purchase,1.0,0", "u1,i1,play,273,0", "u2,i2,play,1.5,0"]
    (root / "steam-200k.csv").write_text("\n".join(lines))
    return [("u1", "i1", "play", "273"), ("u2", "i2", "play", "1.5")]


def write_yelp(root: Path) -> Expected:
    reviews = [("u1", "i1", 5.0), ("u2", "i2", 4.0), ("u2", "i1", 2.0)]
    lines = [
        {"review_id": "r", "user_id": user, "business_id": item, "stars": stars, "text": "a\nb",
         "date": f"{NOON:%Y-%m-%d %H:%M:%S}"}
        for user, item, stars in reviews
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "yelp_academic_dataset_review.json").write_text(text)
    return PAIRS


SHAPES: dict[str, Callable[[Path], Expected]] = {
    "Amazon reviews": write_amazon,
    "Book-Crossing": write_book_crossing,
    "Excel": write_excel,
    "Google Sheets": write_google_sheet,
    "Last.fm 360K": write_last_fm,
    "MovieLens": write_movielens,
    "RetailRocket": write_retail_rocket,
    "Snowflake unload": write_snowflake,
    "Steam 200K": write_steam,
    "Yelp": write_yelp,
}


def test_the_table_has_these_shapes() -> None:
    assert list(read_documented_shapes()) == list(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_of_the_table(tmp_path: Path, shape: str) -> None:
    expected_rows = SHAPES[shape](tmp_path)
    attributes = yaml.safe_load(read_documented_shapes()[shape])
    # A local file stands in for a file on the web.
    source = attributes["ratings"]["source"]
    if shape == "Google Sheets":
        attributes["ratings"]["source"] = "sheet"
    elif shape == "MovieLens":
        attributes["ratings"]["source"] = f"ml.zip!/{source.partition('!/')[2]}"
    interactions = preparation.prepare(tmp_path, attributes)
    pairs = zip(interactions.rows, interactions.events, strict=True)
    assert [(user, item, *event) for (user, item, _), event in pairs] == expected_rows
    times = {seconds for _, _, seconds in interactions.rows}
    assert len(times) == 1
    assert (times == {SECONDS}) == (shape not in WITHOUT_TIMES)
