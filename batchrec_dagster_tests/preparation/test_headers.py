"""Which line names the columns, to judge by the first lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.csv_form import find_header, names_columns, read_first_records
from batchrec_dagster.preparation.layout import NO_HEADER, Columns, FileForm, Header
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.recognition import open_table

ROWS = "u1;i1;1500000000\nu2;i2;1500000001\n"
NAMED = f"user;item;time\n{ROWS}"
REPORT = 'Orders "of May\n\nby;Ann;on;Monday\n# checked\n'


@pytest.mark.parametrize(
    ("fields", "are_names"),
    [
        (["user_id", "2024"], True),
        (["who", "what"], True),
        (["who", ""], True),
        (["anna", "7"], False),
        (["anna", "-1.5"], False),
        (["anna", "2024-01-31"], False),
    ],
)
def test_a_line_with_values_names_no_columns(fields: list[str], *, are_names: bool) -> None:
    assert names_columns(fields) is are_names


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (NAMED, None),
        (ROWS + ROWS, NO_HEADER),
        (REPORT + NAMED, 5),
        ("# a comment\nsku;what\na;b\nc;d\n", 2),
        # Of several lines that may be it, the one with the most known names.
        (f"made by;user\n{NAMED}", 2),
        ("just text\nand more\n", None),
        ("a,b\nc,d\ne\n", None),
    ],
)
def test_the_header_is_found_below_other_lines(
    tmp_path: Path, text: str, line: Header | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    opened, form, columns = OpenedFile(path, path.name, len(text)), FileForm(), Columns()
    table = open_table(opened, form, columns)
    assert isinstance(table, CsvTable)
    assert find_header(table, form, columns) == line


@pytest.mark.parametrize(
    ("fields", "rows", "are_names"),
    [
        (["anna", "alien"], [["bob", "up"]], True),
        (["anna", "alien"], [["anna", "up"]], False),
        (["u-1", "x"], [["u-27", "y"]], False),
        (["q1", "x"], [["7", "y"]], True),
        (["who", "what"], [["a", "b"], ["who", "what"]], True),
        (["user", "what"], [["user", "b"]], True),
    ],
)
def test_a_line_like_those_below_it_is_a_row(
    fields: list[str], rows: list[list[str]], *, are_names: bool
) -> None:
    assert names_columns(fields, rows) is are_names


def test_a_quote_that_does_not_end_takes_no_more_than_a_line_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "10")
    path = tmp_path / "a.csv"
    path.write_text('user,item\n1,"2\n' + "3,4\n" * 100_000)
    with ConfinedReader() as reader:
        opened = open_file(RawFile(path, path.name), "auto", tmp_path, reader)
    records = read_first_records(opened, ",", quoted=True)
    assert max(len(field) for record in records for field in record) <= 10_000
