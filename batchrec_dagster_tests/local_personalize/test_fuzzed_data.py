"""Tests with random files: every job ends, failures have a reason, and answers are in order."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.batch_lines import MAX_LINE_BYTES
from batchrec_dagster.local_personalize.trained_recipes import RECIPES, Recipe
from batchrec_dagster.personalize.schemas import make_interactions_schema
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.personalize import describe, poll_until_deadline
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows, encode_csv

pytestmark = pytest.mark.slow

BOM = b"\xef\xbb\xbf"
GOOD = encode_csv(build_taste_rows(1000))
SETTINGS = settings(
    max_examples=repeats(40, 10),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Texts that break readers: quotes, NUL, line ends, marks, bad UTF-8, malformed numbers, long texts.
NASTY = st.sampled_from(
    [
        *(b'"', b'""', b'"\n"', b'","', b"\0", b"\r", b"\r\n", b"\n\n", b",", b",,,,", b"|"),
        *(BOM, b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", "\u2028".encode(), "\u0663".encode()),
        *(b"NaN", b"1e999", b"-1", b"9" * 30, b" ", b"\t", b"#", b"'", b"\\", b"null"),
        *(b"x" * 300, b"x" * 300_000, b'"' + b"y\n" * 50_000),
    ]
)
PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(
    st.tuples(PLACES, st.integers(0, 60), NASTY | st.binary(max_size=20)), max_size=4
)


class FuzzedPersonalize:
    """A Personalize with a dataset group that has data, and a trained version of every recipe."""

    def __init__(self, folder: Path) -> None:
        self.personalize = StartedPersonalize(folder)
        self.datasets = folder / "home" / "datasets"
        self._numbers = itertools.count()
        client = self.personalize.client
        self.group = client.create_dataset_group(name="films")["datasetGroupArn"]
        self.wait_until_settled(self.group)
        self.dataset = self._create_dataset(
            "Interactions", make_interactions_schema(event_type=True).avro
        )
        assert self.import_bytes(GOOD)["status"] == "ACTIVE"
        items = {
            "type": "record",
            "name": "Items",
            "namespace": "com.amazonaws.personalize.schema",
            "fields": [{"name": name, "type": "string"} for name in ("ITEM_ID", "KIND")],
            "version": "1.0",
        }
        kinds = "".join(f"i{n},{'low' if n < 20 else 'high'}\n" for n in range(40))
        dataset = self._create_dataset("Items", json.dumps(items))
        assert self.import_bytes(f"ITEM_ID,KIND\n{kinds}".encode(), dataset)["status"] == "ACTIVE"
        self.versions = {recipe.name: self._create_version(recipe) for recipe in RECIPES.values()}

    def list_row_files(self) -> set[Path]:
        """Return the existing files of imported rows."""
        return set(self.datasets.iterdir())

    def wait_until_settled(self, arn: str) -> dict[str, Any]:
        """Wait until the resource is active or failed, and return its description.

        A failure is allowed if its reason tells the user what to fix.
        """
        for _ in poll_until_deadline():
            description = describe(self.personalize.client, arn)
            if description.get("status") not in ("CREATE PENDING", "CREATE IN_PROGRESS"):
                if description.get("status") == "CREATE FAILED":
                    assert description["failureReason"]
                    assert "internal error" not in description["failureReason"]
                return description
        raise AssertionError(f"{arn} never ends")

    def import_bytes(self, data: bytes, dataset: str | None = None) -> dict[str, Any]:
        name = f"import-{next(self._numbers)}"
        job = self.personalize.client.create_dataset_import_job(
            jobName=name,
            datasetArn=dataset or self.dataset,
            dataSource={"dataLocation": self.personalize.put(f"{name}.csv", data)},
            roleArn=self.personalize.role_arn,
        )
        return self.wait_until_settled(job["datasetImportJobArn"])

    def answer_lines(
        self, recipe: Recipe, data: bytes, **options: Any
    ) -> tuple[dict[str, Any], str]:
        """Return the ended job's description and the folder of its output."""
        name = f"batch-{next(self._numbers)}"
        client: Any = self.personalize.client
        create = (
            client.create_batch_segment_job
            if recipe.makes_segments
            else client.create_batch_inference_job
        )
        job = create(
            jobName=name,
            solutionVersionArn=self.versions[recipe.name],
            roleArn=self.personalize.role_arn,
            jobInput={"s3DataSource": {"path": self.personalize.put(f"{name}.json", data)}},
            jobOutput={"s3DataDestination": {"path": self.personalize.uri(f"{name}/")}},
            **options,
        )
        (arn,) = (value for key, value in job.items() if key.endswith("Arn"))
        return self.wait_until_settled(arn), f"{name}/"

    def _create_dataset(self, dataset_type: str, schema: str) -> str:
        client = self.personalize.client
        arn = client.create_schema(name=dataset_type, schema=schema)["schemaArn"]
        dataset_answer = client.create_dataset(
            name=dataset_type, datasetGroupArn=self.group, schemaArn=arn, datasetType=dataset_type
        )
        self.wait_until_settled(dataset_answer["datasetArn"])
        return dataset_answer["datasetArn"]

    def _create_version(self, recipe: Recipe) -> str:
        client = self.personalize.client
        solution = client.create_solution(
            name=recipe.name,
            datasetGroupArn=self.group,
            recipeArn=recipe.arn,
            performAutoTraining=False,
        )["solutionArn"]
        self.wait_until_settled(solution)
        version = client.create_solution_version(solutionArn=solution)["solutionVersionArn"]
        assert self.wait_until_settled(version)["status"] == "ACTIVE"
        return version


@pytest.fixture(scope="module")
def fuzzed_personalize(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzedPersonalize]:
    service = FuzzedPersonalize(tmp_path_factory.mktemp("fuzzed"))
    yield service
    service.personalize.close()


@st.composite
def damaged_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw good bytes with some places overwritten, or bytes inserted."""
    data = good
    for place, length, nasty in draw(CHANGES):
        position = int(place * (len(data) + 1))
        data = data[:position] + nasty + data[position + length :]
    return data


TEXT = st.text(min_size=1, max_size=8) | st.text(alphabet="\",\n\r|\\ '#x", min_size=1, max_size=5)
DIALECTS = [
    {"quoting": csv.QUOTE_MINIMAL, "lineterminator": "\r\n"},
    {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"},
]
ROWS = st.lists(st.tuples(TEXT, TEXT, st.integers(-(2**63), 2**63 - 1), TEXT), max_size=5)


@SETTINGS
@given(rows=ROWS, csv_options=st.sampled_from(DIALECTS), position=PLACES)
def test_csv_files_round_trip(
    fuzzed_personalize: FuzzedPersonalize,
    rows: list[tuple[str, str, int, str]],
    csv_options: dict[str, Any],
    position: float,
) -> None:
    rows_with_event: list[tuple[str, str, int, str]] = [
        (*row, "watch") for row in build_taste_rows(1000)
    ]
    place = int(position * 1000)
    rows_with_event[place:place] = rows
    text = io.StringIO(newline="")
    writer = csv.writer(text, **csv_options)
    writer.writerow(["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"])
    writer.writerows(rows_with_event)
    before = fuzzed_personalize.list_row_files()
    description = fuzzed_personalize.import_bytes(text.getvalue().encode())
    assert description["status"] == "ACTIVE", description
    (folder,) = fuzzed_personalize.list_row_files() - before
    assert pl.read_parquet(folder / "rows.parquet").rows() == rows_with_event


VALUES = {
    "userId": "u1",
    "itemId": "i1",
    "itemAttributes": 'ITEMS.KIND = "low"',
}
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def lines(draw: st.DrawFn, recipe: Recipe) -> bytes:
    """Draw an input file: good lines, lines with odd values, broken lines, or no lines."""
    good_line = {recipe.input_field: VALUES[recipe.input_field]}
    good = json.dumps(good_line).encode()
    odd = st.fixed_dictionaries(
        {field: JSON | st.just(value) for field, value in good_line.items()},
        optional={"other": JSON},
    ).map(lambda value: json.dumps(value).encode())
    line = st.just(good) | damaged_bytes(good) | odd | st.binary(max_size=30)
    huge = st.sampled_from([good, b"", b'{"userId":"' + b"x" * (MAX_LINE_BYTES + 1) + b'"}'])
    lines_drawn = [*draw(st.lists(line, max_size=6)), draw(huge), good]
    start = draw(st.sampled_from([b"", b"", BOM]))
    data = start + draw(st.sampled_from([b"\n", b"\r\n"])).join(lines_drawn)
    return data + draw(st.sampled_from([b"", b"\n"]))


def _list_requests(data: bytes) -> list[bytes]:
    return [line for line in data.removeprefix(BOM).split(b"\n") if line.strip()]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_any_line_is_answered_in_its_place(
    fuzzed_personalize: FuzzedPersonalize, recipe: Recipe
) -> None:
    @settings(SETTINGS, max_examples=repeats(8, 2))
    @given(data=lines(recipe))
    def check(data: bytes) -> None:
        requests = _list_requests(data)
        description, folder = fuzzed_personalize.answer_lines(recipe, data, numResults=3)
        assert description["status"] == "ACTIVE"
        output, marker = sorted(fuzzed_personalize.personalize.keys(folder), reverse=True)
        assert marker == f"{folder}_CHECK"
        text = fuzzed_personalize.personalize.get(output).decode()
        answers = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
        assert len(answers) == len(requests)
        for line, answer in zip(requests, answers, strict=True):
            _check_answer(line, answer)
        assert answers[-1]["error"] is None  # the last line is good

    check()


def _check_answer(line: bytes, answer: dict[str, Any]) -> None:
    assert list(answer) == ["input", "output", "error"]
    if answer["error"] is None:
        assert answer["input"] == json.loads(line)
    else:
        assert answer["error"].startswith("User error: ")
        assert not any(answer["output"].values())
