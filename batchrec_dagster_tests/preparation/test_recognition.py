"""Files are recognised by one recogniser: `batchrec new` and a run see the same in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from click import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.cli.recognise_ratings import recognise_ratings
from batchrec_dagster.cli.recognised_source import ReadingOptions
from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.preparation.csv_form import names_columns, recognise_delimiter
from batchrec_dagster.preparation.layout import Column, PreparationError
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.users import read_users
from batchrec_dagster_tests.guard.repeats import repeats

DELIMITERS = [",", ";", "\t", "|", "::"]
START = 1_500_000_000


def find_delimiter(folder: Path, text: str, columns: Mapping[str, Column]) -> str:
    path = folder / "data.csv"
    path.write_text(text)
    return recognise_delimiter(OpenedFile(path, "data.csv", len(text)), columns)


def write_interactions(path: Path, declaration: Mapping[str, object]) -> list[str]:
    """The interactions that a run writes for this block `ratings`."""
    ratings = RatingsSettings.model_validate({**declaration, "source": path.name})
    target = path.with_name("interactions.csv")
    with open_ratings([RawFile(path, path.name)], ratings.reading, Rules("skip")) as read:
        read.write_interactions(target)
    return target.read_text().splitlines()


THREE = {"user": 1, "item": 2, "timestamp": 3}


@pytest.mark.parametrize(
    ("text", "columns", "delimiter"),
    [
        ("u1;i1;1500000000\nu2;i1;1500000001\n", THREE, ";"),
        ("u1;i1;4,5;1500000000\nu2;i1;3,5;1500000001\n", {"user": 1, "item": 2}, ";"),
        ("4,5;u1;i1\n3,5;u2;i1\n", {"user": 2, "item": 3}, ";"),
        ("u1,i1,1500000000\n", THREE, ","),
        ("1,Alien,Horror|Thriller|Space|Classic\n", {"item": 1, "title": 2}, ","),
        ('1,Alien,"a;b;c;d"\n', {"item": 1, "title": 2}, ","),
        ('"Alien, or; not";1\n"Up";2\n', {"item": 2, "title": 1}, ";"),
        ('1;"two\nlines"\n2;one\n', {"item": 1, "title": 2}, ";"),
        ("shop|u1\nshop|u2\n", {"user": 1}, ","),
        ("who;what;time,of day\na;b;c\n", {"user": "who", "item": "what"}, ";"),
        ("who;what\na;b\n", {"user": "who", "item": "whatt"}, ";"),
        ("user_id\nshop|u1\nshop|u2\n", {}, ","),
        ("a,b;c,d;e\nf,g;h,i;j\n", {}, ","),
        ("user_id:token\titem_id:token\n1\t2\n", {}, "\t"),
        ('item_id|"' + "x" * 200_000 + "\n", {}, "|"),
        ("", {}, ","),
    ],
)
def test_the_delimiter_is_seen_in_the_first_lines(
    tmp_path: Path, text: str, columns: Mapping[str, Column], delimiter: str
) -> None:
    assert find_delimiter(tmp_path, text, columns) == delimiter


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


def test_a_list_of_users_is_read_with_its_own_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("x;b\ny;007\n")
    users = read_users([RawFile(path, path.name)], 2)
    assert users.get_column("userId").to_list() == ["007", "b"]


# Files of any shape


@dataclass(frozen=True)
class Shape:
    """A file, its columns as a person would declare them, and whether their names are known."""

    text: str
    columns: Mapping[str, Column]
    is_known: bool


KNOWN_NAMES = {"user": "userId", "item": "item_id", "timestamp": "timestamp"}
OTHER_NAMES = {"user": "who", "item": "what", "timestamp": "when it was"}


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    delimiter = draw(st.sampled_from(DELIMITERS))
    ids = st.text("ab1,;|: '", min_size=1, max_size=5)
    texts = st.text('xy,;|": ', max_size=8)
    cells = {
        "user": ids,
        "item": ids,
        "timestamp": st.integers(START, START + 10**8).map(str),
        "rating": st.sampled_from(["1", "4,5", "3.5", ""]),
        "note": texts,
        "tags": st.just("a|b;c"),
    }
    optional = draw(st.lists(st.sampled_from(["rating", "note", "tags"]), unique=True))
    roles = draw(st.permutations(["user", "item", "timestamp", *optional]))
    rows = draw(st.lists(st.tuples(*(cells[role] for role in roles)), min_size=1, max_size=30))
    header = draw(st.sampled_from([KNOWN_NAMES, OTHER_NAMES, None]))
    lines = [[header.get(role, f"my {role}") for role in roles]] if header else []
    lines += [list(row) for row in rows]
    if delimiter == "::":
        text = "".join("::".join(cell.replace("::", "") for cell in line) + "\n" for line in lines)
    else:
        file = io.StringIO(newline="")
        is_quoted = draw(st.booleans())
        csv.writer(
            file,
            delimiter=delimiter,
            quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL,
            lineterminator="\n",
        ).writerows(lines)
        text = file.getvalue()
    columns: dict[str, Column] = {
        role: header[role] if header else roles.index(role) + 1
        for role in ("user", "item", "timestamp")
    }
    return Shape(text, columns, is_known=header is KNOWN_NAMES)


@pytest.mark.slow
@settings(deadline=None, max_examples=repeats(150, 30))
@given(shape=shapes(), names_are_given=st.booleans())
def test_what_new_declares_is_what_a_run_sees(
    tmp_path_factory: pytest.TempPathFactory, shape: Shape, names_are_given: bool
) -> None:
    path = tmp_path_factory.mktemp("shape") / "ratings.csv"
    path.write_text(shape.text)
    options = ReadingOptions(skip=True, whole=False)
    declared_columns = shape.columns if names_are_given else {}
    try:
        recognised_shape = recognise_ratings(
            path.name, [RawFile(path, path.name)], declared_columns, options
        )
    except (PreparationError, UsageError):
        return
    declaration = {
        key: recognised_shape.settings[key] for key in recognised_shape.settings if key != "source"
    }
    declared_lines = write_interactions(path, declaration)
    columns = declaration["columns"]
    is_by_name = isinstance(shape.columns["user"], str)
    if is_by_name:
        # The columns' names are enough for a run.
        assert write_interactions(path, {"columns": columns}) == declared_lines
    if shape.is_known and not names_are_given:
        # A run does not need to be told names that it recognises.
        assert write_interactions(path, {}) == declared_lines
    if names_are_given:
        # By position a run sees the same delimiter, whether or not it is declared.
        asked_alone = write_interactions(path, {"columns": shape.columns})
        assert asked_alone == declared_lines
