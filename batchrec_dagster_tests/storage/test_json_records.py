"""Whatever is in the place of a record: it fits, or is refused in one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.reporting.history import _ReportRecord
from batchrec_dagster.reporting.summary import _NewestModel
from batchrec_dagster.steps.cost import Payment, _Training
from batchrec_dagster.steps.records import DatasetRecord, ModelRecord
from batchrec_dagster.storage.io_managers import JsonRecordIOManager
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster.storage.publications import Publications
from batchrec_dagster.storage.records import ANY_RECORD, parse_record

MODEL = ModelRecord("arn:1", "arn:2", "group", "v1", metrics={"ndcg": 0.5})
# The shape of each record, and one that fits.
RECORDS: list[tuple[Any, dict[str, Any]]] = [
    (ANY_RECORD, {}),
    (ModelRecord, MODEL.to_json()),
    (DatasetRecord, DatasetRecord("arn:1", "group", "v1").to_json()),
    (Payment, {"root_run": "run", "cost_usd": 1.5}),
    (_Training, MODEL.to_json()),
    (_NewestModel, MODEL.to_json()),
    (_ReportRecord, {"editions": {"12": {"version": "v", "verdict": None, "data": None}}}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DAMAGED = st.binary() | JSON.map(lambda value: json.dumps(value).encode())
OTHER_TYPES = [b"", b"\0\xff", b"[]", b"7", b"null", b"not JSON", b'"text"', b"[" * 100_000]


@pytest.fixture
def files(tmp_path: Path) -> ListFiles:
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)})
    return ListFiles(deployment.storage_resource, ListKeys("shop"))


@pytest.mark.parametrize(("shape", "record"), RECORDS)
def test_a_record_that_batchrec_wrote_fits(shape: Any, record: dict[str, Any]) -> None:
    content = json.dumps(record).encode()
    assert parse_record(content, shape) == json.loads(content)


@pytest.mark.parametrize(("shape", "record"), RECORDS)
@settings(max_examples=50)
@given(data=st.data())
def test_a_record_with_another_value_in_it_fits_or_is_refused_in_one_line(
    shape: Any, record: dict[str, Any], data: st.DataObject
) -> None:
    content = data.draw(DAMAGED)
    changed_name = data.draw(st.sampled_from(["", *sorted(record)]))
    if changed_name:
        content = json.dumps({**record, changed_name: data.draw(JSON)}).encode()
    try:
        parsed = parse_record(content, shape)
    except ValueError as error:
        message = str(error)
        if not message or "\n" in message:
            raise
        return
    if shape in (ModelRecord, DatasetRecord):
        assert isinstance(shape.from_json(parsed), shape)


@pytest.mark.parametrize("content", OTHER_TYPES)
@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("shop/records/publications.json", lambda files: Publications(files).read()),
        ("shop/records/solution_version.json", lambda files: files.record("solution_version")),
        (
            "shop/curated/recommendation_outcomes/sums.parquet",
            lambda files: files.parquet(files.keys.outcome_sums, "delete it"),
        ),
    ],
)
def test_a_record_of_another_type_is_refused_by_name(
    files: ListFiles, key: str, read: Callable[[ListFiles], object], content: bytes
) -> None:
    files.storage.store.put(files.uri(key), content)
    with pytest.raises(DamagedObjectError) as caught:
        read(files)
    message = str(caught.value)
    assert files.storage.where(files.uri(key)) in message
    assert "delete it" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", OTHER_TYPES)
def test_an_input_of_another_type_is_refused(files: ListFiles, content: bytes) -> None:
    manager = JsonRecordIOManager(storage=files.storage)
    for target_type in (ModelRecord, dict):
        with pytest.raises(ValueError, match=r".+"):
            manager.decode(content, target_type)
