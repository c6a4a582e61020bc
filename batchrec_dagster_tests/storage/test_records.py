"""Tests that a stored record either fits its model or counts as missing."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.objects import ObjectStore
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
OTHERS = st.sampled_from([b"", b"\0\xff", b"null", b"not JSON", b"[" * 100_000])
DAMAGED = st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | OTHERS


@settings(max_examples=50)
@given(content=DAMAGED, changed=st.sampled_from(sorted(MODEL.model_dump())), value=JSON)
def test_a_damaged_record_that_can_be_made_again_counts_as_none(
    content: bytes, changed: str, value: object
) -> None:
    record = {**MODEL.model_dump(mode="json"), changed: value}
    with TemporaryDirectory() as folder:
        store, uri = ObjectStore({"lake": Path(folder)}), "s3://lake/record.json"
        for stored in (content, json.dumps(record).encode()):
            store.put(uri, stored)
            assert isinstance(load(store, uri, ModelRecord), ModelRecord | None)
        save(store, uri, MODEL)
        assert load(store, uri, ModelRecord) == MODEL
