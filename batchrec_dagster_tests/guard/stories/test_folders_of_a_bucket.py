"""Tests of ratings in a folder of a bucket, copied or read in place, on a real S3 server."""

from __future__ import annotations

import gzip
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    definitions,
    metadata,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import READER, S3Server

PARTS = 5


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> str:
    """Return a bucket with ratings in parts, one packed and one empty, and an unrelated object."""
    bucket, client = s3.create_bucket(), s3.client()
    header, *rows = write_ratings(tmp_path / "ratings.csv").read_text().splitlines(keepends=True)
    rows_per_part = len(rows) // PARTS
    for number in range(PARTS):
        part = (
            header + "".join(rows[number * rows_per_part : (number + 1) * rows_per_part])
        ).encode()
        name, body = f"exports/{number}.csv", part
        if number == 2:
            name, body = f"{name}.gz", gzip.compress(part)
        client.put_object(Bucket=bucket, Key=name, Body=body)
    client.put_object(Bucket=bucket, Key="exports/9.csv", Body=b"")
    client.put_object(Bucket=bucket, Key="exports_old/0.csv", Body=b"no,ratings\n1,2\n")
    return bucket


def prepare(
    project: Project, instance: dg.DagsterInstance, source: Path | str
) -> dg.ExecuteInProcessResult:
    """Run raw_ratings and interactions."""
    project.declare(
        {
            "name": "shop",
            "ratings": {"source": str(source), "columns": COLUMNS},
            "interactions": {"min_rating": 3.5},
        }
    )
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[
                dg.AssetKey(["shop", asset]) for asset in ("raw_ratings", "interactions")
            ],
        )


def read_interactions(project: Project) -> bytes:
    return (project.storage / "shop/transformed/interactions/interactions.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["exports/*.csv*", "exports/"])
def test_a_folder_of_a_bucket_is_what_its_files_are(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    s3: S3Server,
    bucket: str,
    source: str,
) -> None:
    prepare(project, instance, project.root / "ratings.csv")
    whole = read_interactions(project)
    # The keys may only read the source.
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    project.environment["AWS_ENDPOINT_URL_S3"] = s3.endpoint
    uri = f"s3://{bucket}/{source}"

    result = prepare(project, instance, uri)
    assert read_interactions(project) == whole
    raw_metadata = metadata(result, "raw_ratings")
    assert (raw_metadata["files"], raw_metadata["dagster/row_count"]) == (PARTS + 1, 1800)
    assert raw_metadata["outcome"] == "copied"
    raw = [path.name for path in (project.storage / "shop/raw").rglob("*") if path.is_file()]
    assert len(raw) == PARTS + 1

    second_result = prepare(project, instance, uri)
    assert find_version(second_result) == find_version(result)
    s3.client().put_object(
        Bucket=bucket,
        Key="exports/5.csv",
        Body=b"userId,movieId,rating,timestamp\n1,2,5,1500000000\n",
    )
    s3.client().delete_object(Bucket=bucket, Key="exports/9.csv")
    grown_result = prepare(project, instance, uri)
    assert find_version(grown_result) != find_version(result)
    assert read_interactions(project).startswith(whole)
    assert metadata(grown_result, "raw_ratings")["outcome"] == f"copied 1 of {PARTS + 1}"


def find_version(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None and event.asset_key.path[-1] == "raw_ratings"
    ]
    return (event.materialization.tags or {})["dagster/data_version"]
