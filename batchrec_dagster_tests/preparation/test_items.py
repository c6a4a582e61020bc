"""Items: their file becomes an Items data set, and titles for people."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.config.items import ItemColumns
from batchrec_dagster.deployment.io_managers import ItemsCsvIOManager
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.preparation.items import ItemsLayout, parse_items
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.samples import generator
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    outcomes,
    real_data,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.pipeline.test_pipeline import stale
from batchrec_dagster_tests.storage.test_io_managers import pass_downstream

COLUMNS = {
    "item": "movieId",
    "title": "title",
    "categories": {"GENRES": "genres"},
    "numbers": {"YEAR": "year"},
    "created": "added",
}

# Whatever the model, items are the same.
QUICK = {"recipe": "aws-user-personalization"}


def write_items(path: Path, *rows: str, items: int = 80) -> Path:
    """Writes a CSV of items, odd ones comedies and even ones dramas, followed by the rows."""
    lines = ["movieId,title,genres,year,added"]
    for item in range(1, items + 1):
        genre = "Comedy;Romance" if item % 2 else "Drama"
        lines.append(f'{item},"Film, no. {item}",{genre},{1950 + item},2001-02-{item % 28 + 1:02}')
    path.write_text("\n".join([*lines, *rows]) + "\n")
    return path


def declare_with_items(project: Project, **attributes: Any) -> dict[str, Any]:
    return declaration(
        "shop",
        write_ratings(project.root / "ratings.csv"),
        items={
            "source": str(write_items(project.root / "items.csv")),
            "columns": COLUMNS,
            "separator": ";",
        },
        solution=QUICK,
        **attributes,
    )


def read_items(project: Project) -> pl.DataFrame:
    return pl.read_csv(project.storage / "shop/transformed/items/items.csv")


def find_items_check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = (
        evaluation
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.check_name == "items_known"
    )
    return evaluation


@pytest.mark.slow
def test_items_are_imported_and_titles_stand_in_the_table(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declare_with_items(project))
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    items = read_items(project)
    assert items.columns == ["ITEM_ID", "CREATION_TIMESTAMP", "GENRES", "YEAR"]
    assert items.row(0) == (1, 981_072_000, "Comedy|Romance", 1951.0)
    lists = table(project, "shop")
    assert lists.columns == ["user_id", "rank", "item_id", "title", "score"]
    titles = lists.select(pl.format("Film, no. {}", "item_id") == pl.col("title"))
    assert titles.to_series().all()
    dataset_metadata = metadata(result, "personalize_dataset")
    assert dataset_metadata["items_outcome"] == "imported"
    client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
    dataset = client.describe_dataset(datasetArn=dataset_metadata["items_dataset_arn"])["dataset"]
    assert dataset["datasetType"] == "ITEMS"
    job = client.describe_dataset_import_job(
        datasetImportJobArn=dataset_metadata["items_dataset_import_job_arn"]
    )["datasetImportJob"]
    assert job["status"] == "ACTIVE"
    schema = metadata(result, "recommendations")["dagster/column_schema"]
    assert [column.name for column in schema.columns] == lists.columns

    assert stale(project, instance) == {}
    second_result = refresh(project, "shop", instance, report=True)
    assert stale(project, instance) == {}
    assert outcomes(second_result) == [
        f"unchanged: not {step} again" for step in ("copied", "imported", "trained", "inferred")
    ]
    assert metadata(second_result, "raw_items")["outcome"] == "unchanged: not copied again"
    assert (
        metadata(second_result, "personalize_dataset")["items_outcome"]
        == "unchanged: not imported again"
    )

    # Titles change only the table, while other metadata change the model too.
    source = project.root / "items.csv"
    source.write_text(source.read_text().replace("Film,", "Movie,"))
    renamed_result = refresh(project, "shop", instance)
    assert outcomes(renamed_result)[1:] == [
        f"unchanged: not {step} again" for step in ("imported", "trained", "inferred")
    ]
    assert table(project, "shop").get_column("title").str.starts_with("Movie").all()
    source.write_text(source.read_text().replace("Drama", "Crime"))
    changed_result = refresh(project, "shop", instance)
    assert outcomes(changed_result)[1:] == ["unchanged: not imported again", "trained", "inferred"]
    assert metadata(changed_result, "personalize_dataset")["items_outcome"] == "imported"


@pytest.mark.slow
def test_items_can_be_added_changed_and_removed_once_a_pipeline_has_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes_with_items = declare_with_items(project)
    attributes_without_items = {
        key: value for key, value in attributes_with_items.items() if key != "items"
    }
    columns = {"item": "movieId", "categories": {"GENRES": "genres"}}
    changed_attributes = {
        **attributes_with_items,
        "items": {**attributes_with_items["items"], "columns": columns},
    }
    results = []
    for settings in (
        attributes_without_items,
        attributes_with_items,
        attributes_without_items,
        changed_attributes,
        attributes_without_items,
    ):
        project.declare(settings)
        results.append(refresh(project, "shop", instance))
        assert results[-1].success, why(results[-1])
    assert find_items_check(results[3]).passed  # It has no titles.
    groups = [metadata(result, "personalize_dataset")["dataset_group_name"] for result in results]
    assert len({*groups}) == 3
    assert groups[0] == groups[2] == groups[4]
    # If it is changed back, nothing is done again, since the inputs of the edition before are kept.
    for changed_back in (results[2], results[4]):
        assert outcomes(changed_back)[1:] == [
            f"unchanged: not {step} again" for step in ("imported", "trained", "inferred")
        ]


def test_an_asset_of_ones_own_gets_the_items_with_numbers_and_ids_as_text(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"ITEM_ID": ["007", "ü"], "GENRES": ["War|Crime", None], "YEAR": [1999.0, None]}
    )
    items_received = pass_downstream(tmp_path, ItemsCsvIOManager, table, pl.DataFrame)
    assert isinstance(items_received, pl.DataFrame)
    assert items_received.equals(table)


@pytest.mark.slow
def test_titles_alone_are_no_data_set_of_personalizes(
    project: Project, instance: dg.DagsterInstance
) -> None:
    settings = declare_with_items(project)
    settings["items"]["columns"] = {"item": "movieId", "title": "title"}
    write_items(project.root / "items.csv", "41", items=40)
    project.declare(settings)
    bad = why(refresh(project, "shop", instance))
    assert bad.startswith("items_readable: 1 of 41 rows cannot be read")
    assert bad.endswith("items.on_bad_rows: skip")
    assert "\n" not in bad
    assert not (project.storage / "shop/transformed/item_titles").exists()

    settings["items"]["on_bad_rows"] = "skip"
    project.declare(settings)
    result = refresh(project, "shop", instance)
    assert result.success
    assert "items_dataset_arn" not in metadata(result, "personalize_dataset")
    lists = table(project, "shop")
    assert set(lists.filter(pl.col("title").is_null()).get_column("item_id").cast(int)) == (
        set(range(41, 81)) & set(lists.get_column("item_id").cast(int))
    )
    listed_ids = lists.get_column("item_id").cast(int).unique()
    check = find_items_check(result)
    numbers = check.metadata["items"].value, check.metadata["known"].value
    listed_known = int((listed_ids <= 40).sum())
    assert numbers == (len(listed_ids), listed_known)
    assert check.passed == (2 * listed_known >= len(listed_ids))

    # If ids are written differently, none is known. That is a warning, and nothing fails.
    lines = (project.root / "items.csv").read_text().splitlines()
    zeros = [lines[0], *(f"0{line}" for line in lines[1:])]
    (project.root / "items.csv").write_text("\n".join(zeros) + "\n")
    result = refresh(project, "shop", instance)
    assert result.success
    assert not find_items_check(result).passed
    assert f"{find_items_check(result).description}".startswith(f"0 of the {len(listed_ids)} items")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("90,A,B,1999", "line 82: fewer than the 5 fields of line 1"),
        (" ,A,B,1999,0", "line 82: no item"),
        ("NULL,A,B,1999,0", "line 82: an id that means no value (ratings.null_values)"),
        ("9,A,B,1999,0", "line 82: the item stands in an earlier row"),
        (f"{'9' * 257},A,B,1999,0", "an id longer than 256 characters"),
        ("90,A,B,long ago,0", "line 82: YEAR is not a number"),
        ("90,A,B,inf,0", "line 82: YEAR is not a number"),
        ("90,A,B,1999,May", "line 82: the creation time is neither whole epoch seconds"),
        (f"90,A,{'B' * 1001},1999,0", "GENRES has a value longer than 1000 characters"),
        ("90,ü\ufffd,B,1999,0", "line 82: the title is not UTF-8 text"),
    ],
)
def test_an_unreadable_row_is_reported_or_dropped(tmp_path: Path, row: str, message: str) -> None:
    path = write_items(tmp_path / "items.csv", row)
    read = parse_items(RawFile(path, "items.csv"), LAYOUT)
    assert read.rows == 81
    assert read.bad.total == 1
    assert message in read.bad.examples[0]
    assert read.bad.examples[0].startswith("items.csv, line 82: ")
    assert read.metadata.height == read.titles.height == 80


LAYOUT = ItemsLayout(
    delimiter=",",
    item="movieId",
    title="title",
    created="added",
    categories={"GENRES": "genres"},
    numbers={"YEAR": "year"},
    separator=";",
)


def test_cells_become_what_personalize_takes(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(
        "movieId,title,genres,year,added\n"
        '007,"Say ""hello""\nagain", Crime ; War;,\\N,2001-02-03T00:00:00+01:00\n'
        "\n"
        "ü,,,1e3,981072000123\n"
        "3, C ,;;,-1.5,981072000\n"
    )
    read = parse_items(RawFile(path, "items.csv"), LAYOUT)
    assert read.bad.total == 0
    assert read.metadata.rows() == [
        ("007", 981_154_800, "Crime|War", None),
        ("ü", 981_072_000, None, 1000.0),
        ("3", 981_072_000, None, -1.5),
    ]
    assert read.titles.rows() == [("007", 'Say "hello"\nagain'), ("ü", None), ("3", "C")]


@pytest.mark.slow  # a whole refresh
@pytest.mark.parametrize("by_position", [False, True])
def test_pictures_and_pages_reach_the_titles_of_a_run(
    project: Project, instance: dg.DagsterInstance, by_position: bool
) -> None:
    rows = [
        f"{item},Film {item},https://a.example/{item}.jpg,https://a.example/{item}"
        for item in range(1, 81)
    ]
    header = [] if by_position else ["movieId,title,picture,page"]
    source = project.root / "items.csv"
    source.write_text("\n".join([*header, *rows]) + "\n")
    columns: dict[str, Any] = {"item": "movieId", "title": "title"}
    columns |= {"image": "picture", "link": "page"}
    if by_position:
        columns = {"item": 1, "title": 2, "image": 3, "link": 4}
    ratings = write_ratings(project.root / "ratings.csv")
    items = {"source": str(source), "columns": columns}
    project.declare(declaration("shop", ratings, items=items, solution=QUICK))
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    titles = pl.read_parquet(project.storage / "shop/transformed/item_titles/item_titles.parquet")
    assert titles.row(by_predicate=pl.col("item_id") == "7", named=True) == {
        "item_id": "7",
        "title": "Film 7",
        "image": "https://a.example/7.jpg",
        "link": "https://a.example/7",
    }


def test_pictures_and_pages_are_addresses_next_to_the_title(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text(
        "id,name,picture,page\n"
        "1,One, https://a.example/1.jpg ,http://a.example/1\n"
        "2,Two,javascript:alert(1),\n"
    )
    columns = ItemColumns(item="id", title="name", image="picture", link="page")
    read = parse_items(RawFile(file, "items.csv"), replace(columns.layout, delimiter=","))
    assert read.titles.rows() == [
        ("1", "One", "https://a.example/1.jpg", "http://a.example/1"),
        ("2", "Two", None, None),
    ]
    assert read.bad.total == 0
    with pytest.raises(ValueError, match="image and link stand with a title"):
        ItemColumns(item="id", link="page")


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|", "::"])
def test_the_delimiter_is_found_by_the_declared_columns(tmp_path: Path, delimiter: str) -> None:
    layout = ItemsLayout(None, item="id", title="full title", numbers={"PRICE": "price"})
    path = tmp_path / "items.csv"
    for items_layout in (layout, replace(layout, delimiter=delimiter)):
        path.write_text(f"price{delimiter}id{delimiter}full title\n2.5{delimiter}a{delimiter}A\n")
        read = parse_items(RawFile(path, "items.csv"), items_layout)
        assert read.metadata.rows() == [("a", 2.5)]
        assert read.titles.rows() == [("a", "A")]


def test_a_comma_may_stand_for_the_point_in_numbers(tmp_path: Path) -> None:
    layout = ItemsLayout(";", item="id", numbers={"PRICE": "price"}, decimal=",")
    path = tmp_path / "items.csv"
    path.write_text("id;price\na;2,5\nb;1.234,5\nc;2.5\nd;\n")
    read = parse_items(RawFile(path, "items.csv"), layout)
    # A point may divide thousands, and stands for nothing else.
    assert read.metadata.rows() == [("a", 2.5), ("b", 1234.5), ("d", None)]
    assert read.bad.counts == {"PRICE is not a number": 1}
    read = parse_items(RawFile(path, "items.csv"), replace(layout, decimal="."))
    assert read.metadata.rows() == [("c", 2.5), ("d", None)]
    assert read.bad.counts == {'PRICE is not a number (items.decimal: ",")': 2}


def test_a_nul_is_text_in_a_title_and_in_no_id(tmp_path: Path) -> None:
    layout = ItemsLayout(",", item="id", title="title", categories={"KIND": "kind"})
    path = tmp_path / "items.csv"
    path.write_bytes(b'id,title,kind\n1,A\0B,x\0y\n2\0,C,x\n"3\n",D,x\n')
    read = parse_items(RawFile(path, "items.csv"), layout)
    assert read.titles.rows() == [("1", "A\ufffdB")]
    assert read.metadata.rows() == [("1", "x\ufffdy")]
    assert read.bad.counts == {"an id with a line break or a NUL in it": 2}


def test_letters_of_either_encoding_are_read(tmp_path: Path) -> None:
    layout = ItemsLayout(delimiter="::", item=1, title=2)
    path = tmp_path / "movies.dat"
    for encoding in ("utf-8", "utf-8-sig", "cp1252"):
        path.write_bytes('1::"Amélie"\r\n2::€15\u2019s\r\n'.encode(encoding))
        read = parse_items(RawFile(path, "movies.dat"), layout)
        assert read.titles.rows() == [("1", '"Amélie"'), ("2", "€15\u2019s")]
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert parse_items(RawFile(path, "movies.dat"), layout).titles.row(0) == ("1", '"Amélie"')


def test_a_quote_is_text_in_a_file_without_quoted_fields(tmp_path: Path) -> None:
    layout = ItemsLayout(None, item="id", title="title")
    path = tmp_path / "items.csv"
    path.write_text('id;title\n1;27" monitor\n2;The "Big" one\n')
    read = parse_items(RawFile(path, "items.csv"), layout)
    assert read.titles.rows() == [("1", '27" monitor'), ("2", 'The "Big" one')]
    path.write_text('id;title\n1;"A; B"\n2;27" monitor\n')
    with pytest.raises(PreparationError, match="line 3: there is a single") as error:
        parse_items(RawFile(path, "items.csv"), layout)
    assert str(error.value).endswith('Write "" for each quote inside a quoted field')


def test_a_line_break_in_the_first_row_is_read_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('"Two\nlines";1\nOne;2\n"x\ny"\n')
    read = parse_items(RawFile(path, "items.csv"), ItemsLayout(None, item=2, title=1))
    assert read.titles.rows() == [("1", "Two\nlines"), ("2", "One")]
    (example,) = read.bad.examples
    assert example == "items.csv, line 4: fewer than the 2 fields of line 1"


def test_lists_are_several_values_of_a_category(tmp_path: Path) -> None:
    layout = ItemsLayout(None, item="id", categories={"GENRES": "genres"}, created="on")
    path = tmp_path / "items"
    rows = [
        {"id": 1, "genres": ["War", " Crime ", None], "on": "2001-02-03"},
        {"id": 2, "genres": [], "on": "2001-02-03"},
        {"id": 3, "genres": None, "on": 20010203},
    ]
    expected_rows = [
        ("1", 981_158_400, "War|Crime"),
        ("2", 981_158_400, None),
        ("3", 981_158_400, None),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert parse_items(RawFile(path, "items"), layout).metadata.rows() == expected_rows
    dates = pl.Series(["2001-02-03"] * 3).str.to_date()
    pl.DataFrame(rows, strict=False).with_columns(on=dates).write_parquet(path)
    assert parse_items(RawFile(path, "items"), layout).metadata.rows() == expected_rows
    path.write_text('{"id": 1, "genres": {"name": "War"}, "on": "2001-02-03"}\n[1]\n')
    read = parse_items(RawFile(path, "items"), layout)
    assert read.bad.counts == {
        "genres is an object, or a list that is not of values": 1,
        "not a JSON object": 1,
    }
    assert read.bad.examples[1] == "items, line 2: not a JSON object"
    pl.DataFrame({"id": [1.5], "genres": ["War"], "on": [0]}).write_parquet(path)
    with pytest.raises(PreparationError, match=r"'id' \(items.columns.item\) is of type Float64"):
        parse_items(RawFile(path, "items"), layout)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "items.csv is empty"),
        ("movieId,title,genres,year,added\n", "items.csv has no rows"),
        ("a," * 300_000 + "\n1\n", "items.csv, line 1 has 300,001 columns, and at most 2,000"),
        ("movieId,title\n1,A\n", "items.csv has no column 'added' (items.columns.created)"),
        (
            "movieId;title\n1;A\n",
            "it has: movieId;title (read with the delimiter ',', items.delimiter)",
        ),
        ('movieId,title,genres,year,added\n1,"' + "A" * 200_000, "items.csv, line "),
    ],
)
def test_an_unreadable_file_is_reported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(PreparationError) as error:
        parse_items(RawFile(path, "items.csv"), LAYOUT)
    assert message in str(error.value)


def test_films_are_read_with_their_genres(tmp_path: Path) -> None:
    path = tmp_path / "movies.dat"
    path.write_bytes(generator.FILES["movies.dat"]())
    layout = ItemsLayout(None, "movieID", "title", categories={"GENRES": "genres"})
    read = parse_items(RawFile(path, "movies.dat"), layout)
    assert read.bad.total == 0
    assert read.metadata.height == 10_109
    small = real_data("ml-latest-small") / "movies.csv"
    layout = ItemsLayout(None, "movieId", "title", categories={"GENRES": "genres"})
    read = parse_items(RawFile(small, "m"), layout)
    assert (read.rows, read.bad.total) == (9_742, 0)
    assert read.titles.row(0) == ("1", "Toy Story (1995)")
    assert read.metadata.row(0) == ("1", "Adventure|Animation|Children|Comedy|Fantasy")
