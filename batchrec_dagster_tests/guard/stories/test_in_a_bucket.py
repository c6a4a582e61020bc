"""Tests of nights with the storage or a source in a bucket.

The lists are the same as in a folder. Messages about S3's refusals say what to do.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.proxy import proxy
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, STRANGER, Keys, S3Server

SAME = (
    "transformed/interactions/interactions.csv",
    "transformed/batch_users_input/users.json",
)
PREPARED = ["raw_ratings", "interactions"]
RECOMMENDATIONS = "curated/recommendations/recommendations.parquet"
WRONG_SECRET = Keys(OWNER.access, "another-secret")
REFUSED = [
    pytest.param(STRANGER, "AWS does not know the credentials", id="unknown key"),
    pytest.param(WRONG_SECRET, "the secret does not match the access key", id="wrong secret"),
]


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.create_bucket()


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> Callable[[Keys], dict[str, str]]:
    """Return a function that gives boto3 these keys, and hides this machine's credentials."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)

    def log_in(keys: Keys) -> dict[str, str]:
        environment = s3.environment(keys)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return environment

    return log_in


def make_shop_project(root: Path, source: Path | str, environment: dict[str, str]) -> Project:
    root.mkdir(exist_ok=True)
    project = module_project(root)
    project.environment = environment
    project.declare(declaration("shop", source))
    return project


def list_keys(s3: S3Server, bucket: str) -> list[str]:
    return [
        entry["Key"] for entry in s3.client().list_objects_v2(Bucket=bucket).get("Contents", [])
    ]


def read_error_chain(result: dg.ExecuteInProcessResult) -> str:
    """Return the failed step's messages, from the outermost error to its cause."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    error, messages = event.step_failure_data.error, []
    while error is not None:
        messages.append(error.message)
        error = error.cause
    return "\n".join(messages)


@pytest.mark.slow
def test_a_bucket_gets_the_same_bytes_as_a_folder(
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    log_in: Callable[[Keys], dict[str, str]],
    instance: dg.DagsterInstance,
    first_run: FirstRun,
) -> None:
    environment = {**log_in(OWNER), "BATCHREC_STORAGE": f"s3://{bucket}/some/prefix"}
    project = make_shop_project(tmp_path / "s3", "ratings.csv", environment)
    shutil.copy(first_run.folder / "ratings.csv", project.root)
    first = refresh(project, "shop", instance)
    second_result = refresh(project, "shop", instance)

    assert first.success
    assert second_result.success
    assert all(key.startswith("some/prefix/shop/") for key in list_keys(s3, bucket))
    assert not project.storage.exists()
    for name in SAME:
        body = s3.client().get_object(Bucket=bucket, Key=f"some/prefix/shop/{name}")["Body"]
        assert body.read() == (first_run.storage / "shop" / name).read_bytes(), name
    # The lists' metadata name their run, too.
    table = (
        s3.client()
        .get_object(Bucket=bucket, Key=f"some/prefix/shop/{RECOMMENDATIONS}")["Body"]
        .read()
    )
    assert pl.read_parquet(table).equals(pl.read_parquet(first_run.lists))


@pytest.mark.slow
def test_a_night_downloads_each_file_once_for_all_its_steps(
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    log_in: Callable[[Keys], dict[str, str]],
    instance: dg.DagsterInstance,
    first_run: FirstRun,
) -> None:
    with proxy(s3.endpoint) as door:
        environment = {**log_in(OWNER), "BATCHREC_STORAGE": f"s3://{bucket}/lake"}
        environment["AWS_ENDPOINT_URL_S3"] = door.address
        project = make_shop_project(tmp_path / "s3", "ratings.csv", environment)
        shutil.copy(first_run.folder / "ratings.csv", project.root)
        assert refresh(project, "shop", instance).success
        files = Counter(path.rpartition("/")[2] for path in door.downloads)
        # The embedded Personalize reads the interactions by a separate request.
        assert files["ratings.csv"] <= 1
        assert files["interactions.csv"] <= 2
        door.downloads.clear()
        assert refresh(project, "shop", instance).success
        assert not {"ratings.csv", "interactions.csv"} & {
            path.rpartition("/")[2] for path in door.downloads
        }


@pytest.mark.slow
def test_a_source_in_a_bucket_is_read_and_copied_once(
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    log_in: Callable[[Keys], dict[str, str]],
    instance: dg.DagsterInstance,
) -> None:
    ratings = write_ratings(tmp_path / "ratings.csv").read_bytes()
    s3.client().put_object(Bucket=bucket, Key="exports/ratings.csv", Body=ratings)
    environment = {**log_in(OWNER), "BATCHREC_STORAGE": f"s3://{bucket}/out"}
    project = make_shop_project(tmp_path, f"s3://{bucket}/exports/ratings.csv", environment)

    assert refresh(project, "shop", instance, assets=PREPARED).success
    head = s3.client().head_object(Bucket=bucket, Key="out/shop/raw/ratings/ratings.csv")
    assert refresh(project, "shop", instance, assets=PREPARED).success
    later_head = s3.client().head_object(Bucket=bucket, Key="out/shop/raw/ratings/ratings.csv")

    assert head["ContentLength"] == len(ratings)
    assert later_head["LastModified"] == head["LastModified"]


@pytest.mark.slow
def test_a_source_in_a_bucket_can_feed_a_folder(
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    log_in: Callable[[Keys], dict[str, str]],
    instance: dg.DagsterInstance,
) -> None:
    ratings = write_ratings(tmp_path / "ratings.csv").read_bytes()
    s3.client().put_object(Bucket=bucket, Key="exports/ratings.csv", Body=ratings)
    project = make_shop_project(tmp_path, f"s3://{bucket}/exports/ratings.csv", log_in(READER))

    assert refresh(project, "shop", instance, assets=PREPARED).success
    assert (project.storage / "shop/raw/ratings/ratings.csv").read_bytes() == ratings
    assert list_keys(s3, bucket) == ["exports/ratings.csv"]


@pytest.mark.parametrize(
    ("keys", "mend"),
    [*REFUSED, pytest.param(READER, "allow these credentials s3:PutObject", id="may only read")],
)
def test_refused_by_s3_the_run_says_what_it_may_not_do_and_leaves_nothing(
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    log_in: Callable[[Keys], dict[str, str]],
    instance: dg.DagsterInstance,
    keys: Keys,
    mend: str,
) -> None:
    environment = {**log_in(keys), "BATCHREC_STORAGE": f"s3://{bucket}/out"}
    project = make_shop_project(tmp_path, write_ratings(tmp_path / "ratings.csv"), environment)

    result = refresh(project, "shop", instance)

    assert not result.success
    denials = [
        line for line in read_error_chain(result).splitlines() if "permission denied" in line
    ]
    assert f"s3://{bucket}/out/shop/" in denials[0]
    assert mend in denials[0]
    assert list_keys(s3, bucket) == []


def test_a_bucket_that_is_not_there_is_named(
    tmp_path: Path,
    log_in: Callable[[Keys], dict[str, str]],
    instance: dg.DagsterInstance,
) -> None:
    environment = {**log_in(OWNER), "BATCHREC_STORAGE": "s3://no-such-bucket/out"}
    project = make_shop_project(tmp_path, write_ratings(tmp_path / "ratings.csv"), environment)

    result = refresh(project, "shop", instance)

    assert not result.success
    assert "there is no bucket no-such-bucket: create it" in read_error_chain(result)
