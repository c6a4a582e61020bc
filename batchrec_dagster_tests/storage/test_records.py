"""Whatever is in the place of a record: it fits, or is refused in one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster.storage.records import load, save

MODEL = ModelRecord(
    made_of={"data": "v1"},
    version="v1",
    solution_version_arn="arn:1",
    data_version="v1",
    metrics={"ndcg": 0.5},
)
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
    return ListFiles(deployment.open_storage(), ListKeys("shop"))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_record_that_can_be_made_again_counts_as_none(
    files: ListFiles, data: st.DataObject
) -> None:
    record = MODEL.model_dump(mode="json")
    content = data.draw(DAMAGED)
    changed_name = data.draw(st.sampled_from(["", *sorted(record)]))
    if changed_name:
        content = json.dumps({**record, changed_name: data.draw(JSON)}).encode()
    store, uri = files.storage.store, files.record_uri("solution_version")
    store.put(uri, content)
    loaded = load(store, uri, ModelRecord)
    assert loaded is None or isinstance(loaded, ModelRecord)
    save(store, uri, MODEL)
    assert load(store, uri, ModelRecord) == MODEL


@pytest.mark.parametrize("content", OTHER_TYPES)
@pytest.mark.parametrize(
    ("key", "read"),
    [
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
