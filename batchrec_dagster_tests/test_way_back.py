"""The way back on Spark: the same table and the same verdicts as on this machine without it."""

from __future__ import annotations

import json
import logging
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest
from pyspark.sql import SparkSession

from batchrec_dagster.formats.batch_inference import output_line, read_output
from batchrec_dagster.formats.interactions import csv_types
from batchrec_dagster.pipeline.assets.lists import Lists
from batchrec_dagster.pipeline.assets.lists_on_spark import checks_of, copied
from batchrec_dagster.pipeline.assets.seen_items import SeenItems
from batchrec_dagster.pipeline.settings.recommendations import Recommendations
from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.spark.task import SourceFile
from batchrec_dagster.preparation.spark.way_back import write_lists
from batchrec_dagster.preparation.spark.way_back_task import Returned, WayBack
from batchrec_dagster.table_files import TableFiles
from batchrec_dagster_tests.spark_support import quick_session

LOG = logging.getLogger(__name__)
USERS = ["u1", "007", "7", "é", "😀 x", 'a"b', "c,d", " e", "f\\", "\u3000g", "u2", "u3", "{", "'"]
ITEMS = ["1", "01", "ü", 'i"1', "i,2", "\\3", "i 4", "5", "6", "7", "8", "9"]


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with quick_session() as session:
        yield session


def lines(users: Sequence[str], seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [
        output_line(
            {"userId": user, "filterValues": {"A": '"x"'}},
            items := chance.sample(ITEMS, chance.choice([0, 1, 5, 12])),
            None if chance.random() < 0.3 else [chance.random() for _ in items],
        )
        for user in users
    ]


class Case:
    """Files of a batch job, of its users, and of what goes into the table."""

    def __init__(self, folder: Path, answers: Mapping[str, str], users: Sequence[str] = USERS):
        self.folder, self.asked, self.answers = folder, users, answers
        for name, content in answers.items():
            (folder / name).write_text(content)
        pl.DataFrame({"userId": users}).write_ndjson(folder / "users.json")
        chance = random.Random(1)
        pairs = [(chance.choice([*users, "x"]), chance.choice([*ITEMS, "y"])) for _ in range(60)]
        had = pl.DataFrame(pairs, ["USER_ID", "ITEM_ID"], orient="row")
        had.with_columns(TIMESTAMP=pl.lit(1)).write_csv(folder / "interactions.csv")
        titles = {"item_id": ITEMS[:-2], "title": ["A title, with", None, *ITEMS[2:-2]]}
        pl.DataFrame(titles).write_parquet(folder / "titles.parquet")

    def task(self, num_results: int, *, seen: bool = True, titles: bool = True) -> WayBack:
        files = {
            name: SourceFile(f"file://{self.folder / name}", name)
            for name in (*self.answers, "users.json")
        }
        return WayBack(
            [files[name] for name in self.answers],
            [files["users.json"]],
            f"file://{self.folder}/interactions.csv" if seen else None,
            f"file://{self.folder}/titles.parquet" if titles else None,
            num_results,
            f"file://{self.folder}/table",
            f"file://{self.folder}/work",
        )

    def here(self, task: WayBack) -> tuple[Lists, pl.DataFrame]:
        columns = ["USER_ID", "ITEM_ID", "TIMESTAMP"]
        interactions = pl.scan_csv(self.folder / "interactions.csv", schema=csv_types(columns))
        users = pl.Series(self.asked)
        seen = SeenItems(interactions, users) if task.interactions else None
        titles = pl.read_parquet(self.folder / "titles.parquet") if task.titles else None
        made = Lists(task.num_results, seen, titles)
        with tempfile.TemporaryDirectory() as folder:
            with TableFiles(Path(folder)) as files:
                pieces = (read_output(text.encode()) for text in self.answers.values())
                made.write(pieces, files)
            return made, pl.read_parquet(files.paths)

    def there(self, spark: SparkSession, task: WayBack) -> tuple[Returned, pl.DataFrame]:
        done = write_lists(spark, task, LOG)
        parts = sorted((self.folder / "table").glob("part-*.parquet"))
        assert not (self.folder / "work").exists()
        return WayBack.done(done.to_json()), pl.read_parquet(parts, glob=False)


def same(case: Case, spark: SparkSession, task: WayBack) -> pl.DataFrame:
    """The table, which both have made, and found the same of."""
    wanted = Recommendations(
        num_results=task.num_results, exclude_seen=task.interactions is not None
    )
    made, here = case.here(task)
    done, there = case.there(spark, task)
    assert there.schema == here.schema
    assert there.rows() == here.rows()
    assert checks_of(done, len(case.asked), wanted) == made.checks(
        pl.Series(case.asked), filtered=False
    )
    assert [done.rows, done.users, done.items, done.dropped] == [
        made.rows,
        made.users,
        len(made.items),
        made.dropped,
    ]
    assert pl.DataFrame(done.sample, made.sample.schema).rows() == made.sample.rows()
    return here


@pytest.mark.parametrize(
    ("num_results", "seen", "titles", "part_rows"),
    [(3, True, True, 7), (12, True, False, 1000), (4, False, True, 1000)],
)
def test_the_table_is_the_same_row_for_row(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_results: int,
    seen: bool,
    titles: bool,
    part_rows: int,
) -> None:
    monkeypatch.setattr("batchrec_dagster.preparation.spark.way_back.PART_ROWS", part_rows)
    told = lines(USERS[::-1])
    answers = {
        "a[1].out": "\n".join(told[:5]) + "\n",
        "b.out": "",
        "c.out": "\r\n".join(told[5:]) + "\n\n",
    }
    case = Case(tmp_path, answers)
    task = case.task(num_results, seen=seen, titles=titles)
    assert WayBack.from_json(json.loads(json.dumps(task.to_json()))) == task
    table = same(case, spark, task)
    assert table.height > 20
    assert len(list((tmp_path / "table").glob("part-*"))) == -(-table.height // part_rows)


def test_what_is_wrong_with_the_lines_is_told_alike(spark: SparkSession, tmp_path: Path) -> None:
    told = lines(USERS, seed=1)
    twice = output_line({"userId": "u2"}, ["1", "5", "1"])
    failed = [
        output_line({"userId": user}, [], error=error)
        for user, error in (("é", "User error"), ("7", "other"), ("u2", "other"))
    ]
    case = Case(tmp_path, {"a.out": "\n".join([*told[5:10], twice, *failed])})
    assert same(case, spark, case.task(3)).height > 5


def test_lists_that_are_all_empty_make_a_table_without_rows(
    spark: SparkSession, tmp_path: Path
) -> None:
    answers = "\n".join(output_line({"userId": user}, []) for user in USERS)
    case = Case(tmp_path, {"a.out": answers})
    assert not same(case, spark, case.task(3, seen=False)).height
    (rows,) = copied((tmp_path / "table").glob("part-*"))
    assert rows.column_names == ["user_id", "rank", "item_id", "title", "score"]


@pytest.mark.parametrize(
    "broken",
    [
        '{"input":{"userId":"1"},"output":{"recommendedItems":["1"',
        '{"input":{"userId":"1"},"output":{"recommendedItems":["1"],"scores":[0.5,0.5]}}',
    ],
)
def test_a_line_that_is_none_is_told(spark: SparkSession, tmp_path: Path, broken: str) -> None:
    case = Case(tmp_path, {"a.out": "\n".join(lines("ab")), "b.out": f"{lines('c')[0]}\n{broken}"})
    with pytest.raises(PreparationError, match=r"^b.out, line 2: not a line of a batch inference"):
        case.there(spark, case.task(3))
    assert not list(tmp_path.glob("table"))
