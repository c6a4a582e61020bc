"""Storage in S3 gets the same bytes as a folder, and a refusal of S3 is explained.

The server is a real one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import botocore.session
import dagster as dg
import polars as pl
import pytest
from botocore.credentials import RefreshableCredentials

from batchrec_dagster.storage.object_store import ObjectNotFoundError, ObjectStore, StorageError
from batchrec_dagster_tests.guard.builders import (
    Project,
    assert_etags_are_given,
    declaration,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.proxy import proxy
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.servers.s3 import (
    OWNER,
    READER,
    REGION,
    STRANGER,
    Keys,
    S3Server,
)

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
    """Puts credentials where boto3 finds them, and nothing of this machine's beside them."""
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
    """What the failed step says, from the outermost error to its cause."""
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
    # The lists say of which run they are, too.
    table = s3.store().get(f"s3://{bucket}/some/prefix/shop/{RECOMMENDATIONS}")
    assert pl.read_parquet(table).equals(pl.read_parquet(first_run.lists))


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
    head = s3.client().head_object(Bucket=bucket, Key="out/shop/raw/ratings.csv")
    assert refresh(project, "shop", instance, assets=PREPARED).success
    later_head = s3.client().head_object(Bucket=bucket, Key="out/shop/raw/ratings.csv")

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
    assert (project.storage / "shop/raw/ratings.csv").read_bytes() == ratings
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


def test_what_is_put_is_got_and_known(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    store = s3.store()
    uri = f"s3://{bucket}/a folder/näme+&=.txt"
    assert store.head(uri) is None

    store.put(uri, b"one")
    before = store.head(uri)
    store.put(uri, iter([b"two ", b"pieces"]))
    after = store.head(uri)

    assert store.get(uri) == b"two pieces"
    assert before is not None
    assert after is not None
    assert (after.uri, before.size, after.size) == (uri, 3, 10)
    assert before.etag != after.etag
    assert list_keys(s3, bucket) == ["a folder/näme+&=.txt"]
    store.download(uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"two pieces"


@pytest.mark.parametrize("size", [1, 9 * 1024 * 1024])
def test_a_page_is_called_one_so_that_browsers_show_it(
    s3: S3Server, bucket: str, size: int
) -> None:
    def find_content_type(name: str) -> str:
        s3.store().put(f"s3://{bucket}/{name}", b"x" * size)
        return s3.client().head_object(Bucket=bucket, Key=name)["ContentType"]

    assert find_content_type("index.html") == "text/html; charset=utf-8"
    assert "html" not in find_content_type("html")


def test_a_large_object_goes_in_parts(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    store, data = s3.store(), os.urandom(20 * 1024 * 1024)
    file = tmp_path / "large"
    file.write_bytes(data)

    store.put(f"s3://{bucket}/bytes", data)
    store.put(f"s3://{bucket}/file", file)

    for name in ("bytes", "file"):
        info = store.head(f"s3://{bucket}/{name}")
        assert info is not None
        assert info.size == len(data)
        assert b"".join(store.chunks(f"s3://{bucket}/{name}")) == data
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket)


def test_the_parts_of_a_large_file_grow_with_it(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.storage.object_store.MAX_PARTS", 2)
    file, data = tmp_path / "large", os.urandom(35_000_000)
    file.write_bytes(data)
    # S3 appends the number of parts to the ETag.
    assert s3.store().put(f"s3://{bucket}/large", file).strip('"').endswith("-2")
    assert s3.store().get(f"s3://{bucket}/large") == data


def test_what_is_written_is_known_by_its_etag(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    assert_etags_are_given(s3.store(), tmp_path, f"s3://{bucket}")


def test_pieces_that_break_off_leave_the_old_object(s3: S3Server, bucket: str) -> None:
    store, uri = s3.store(), f"s3://{bucket}/key"
    store.put(uri, b"old")

    def break_off() -> Iterator[bytes]:
        yield b"x" * (9 * 1024 * 1024)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        store.put(uri, break_off())
    assert store.get(uri) == b"old"


def test_a_listing_goes_by_prefix_to_the_letter(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    local = ObjectStore({"local": tmp_path / "local"})
    for name in ("a/1", "a/2/3", "a_test/1", "ab", "b"):
        s3.store().put(f"s3://{bucket}/{name}", name.encode())
        local.put(f"s3://local/{name}", name.encode())

    def list_keys_and_sizes(store: ObjectStore, base: str, prefix: str) -> list[tuple[str, int]]:
        infos = store.list(f"s3://{base}/{prefix}")
        return [(info.uri.removeprefix(f"s3://{base}/"), info.size) for info in infos]

    assert [name for name, _ in list_keys_and_sizes(s3.store(), bucket, "a/")] == ["a/1", "a/2/3"]
    for prefix in ("", "a", "a/", "a/2", "a/2/", "a_", "ab", "c", "c/", "a/1"):
        assert list_keys_and_sizes(s3.store(), bucket, prefix) == list_keys_and_sizes(
            local, "local", prefix
        ), prefix


def test_more_objects_than_one_page_are_all_listed(s3: S3Server, bucket: str) -> None:
    store = s3.store()
    names = [f"s3://{bucket}/many/{number:04}" for number in range(1005)]
    for name in names:
        store.put(name, b"x")
    assert [info.uri for info in store.list(f"s3://{bucket}/many/")] == names


def test_deleting_twice_is_no_error(s3: S3Server, bucket: str) -> None:
    store, uri = s3.store(), f"s3://{bucket}/a/key"
    store.put(uri, b"x")
    store.delete(uri)
    assert store.head(uri) is None
    store.delete(uri)
    assert list_keys(s3, bucket) == []


def test_a_deletion_that_nobody_confirmed_is_done(s3: S3Server, bucket: str) -> None:
    uri = f"s3://{bucket}/object"
    s3.store().put(uri, b"x")
    with proxy(s3.endpoint) as s3_proxy:
        s3_proxy.unheard = iter([True] * 2)
        ObjectStore({}, s3.session, s3_proxy.address).delete(uri)
        assert s3_proxy.lost == 2
    assert s3.store().head(uri) is None


def test_a_missing_object_and_a_missing_bucket_are_told_apart(s3: S3Server, bucket: str) -> None:
    store = s3.store()
    with pytest.raises(ObjectNotFoundError, match=f"cannot read s3://{bucket}/no/key: there is no"):
        store.get(f"s3://{bucket}/no/key")
    attempts: list[Callable[[], object]] = [
        lambda: store.get("s3://no-such-bucket/key"),
        lambda: store.put("s3://no-such-bucket/key", b"x"),
        lambda: store.list("s3://no-such-bucket/"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="there is no bucket no-such-bucket: create it"):
            attempt()


@pytest.mark.parametrize(("keys", "mend"), REFUSED)
def test_credentials_that_are_refused_are_told_apart_from_what_they_may_not_do(
    s3: S3Server, bucket: str, keys: Keys, mend: str
) -> None:
    uri = f"s3://{bucket}/key"
    s3.store().put(uri, b"old")
    store = s3.store(keys)
    attempts: list[Callable[[], object]] = [
        lambda: store.get(uri),
        lambda: store.put(uri, b"new"),
        lambda: store.list(uri),
        lambda: store.delete(uri),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=f"^cannot .* {uri}: permission denied; {mend}"):
            attempt()
    assert s3.store().get(uri) == b"old"


def test_who_may_only_read_cannot_write(s3: S3Server, bucket: str) -> None:
    uri = f"s3://{bucket}/key"
    s3.store().put(uri, b"old")
    store = s3.store(READER)
    assert store.get(uri) == b"old"
    with pytest.raises(StorageError, match=r"permission denied.* s3:PutObject"):
        store.put(uri, b"x" * (20 * 1024 * 1024))
    with pytest.raises(StorageError, match=r"permission denied.* s3:DeleteObject"):
        store.delete(uri)
    assert s3.store().get(uri) == b"old"


def test_without_credentials_it_says_which_variables_to_set(
    log_in: Callable[[Keys], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        ObjectStore().get("s3://bucket/key")


def test_the_endpoint_that_is_given_counts_whatever_the_environment_says(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    s3.store().put(f"s3://{bucket}/key", b"x")
    assert list_keys(s3, bucket) == ["key"]


class Temporary:
    """Credentials of a role, of which AWS hands out new ones before the old ones expire."""

    def __init__(self, *keys: Keys, seconds: float) -> None:
        self.keys = list(keys)
        self.seconds = seconds
        self.sessions_given = 0

    def __call__(self) -> dict[str, str]:
        keys = self.keys[min(self.sessions_given, len(self.keys) - 1)]
        self.sessions_given += 1
        expires = datetime.now(UTC) + timedelta(seconds=self.seconds)
        return {
            "access_key": keys.access,
            "secret_key": keys.secret,
            "token": "",
            "expiry_time": expires.isoformat(),
        }

    def make_session(self) -> boto3.Session:
        botocore_session = botocore.session.get_session()
        botocore_session._credentials = RefreshableCredentials.create_from_metadata(  # type: ignore[attr-defined]
            self(), refresh_using=self, method="test", mandatory_timeout=0, advisory_timeout=0
        )
        return boto3.Session(botocore_session=botocore_session, region_name=REGION)


@pytest.mark.slow
def test_credentials_that_expire_in_the_middle_of_a_night_are_renewed(
    s3: S3Server, bucket: str
) -> None:
    """The first are withdrawn when they have expired: a store that kept them would be refused."""
    role = Temporary(READER, OWNER, seconds=10)
    store = ObjectStore({}, role.make_session, s3.endpoint)
    uri = f"s3://{bucket}/key"
    assert store.list(uri) == []
    with pytest.raises(StorageError, match="permission denied"):
        store.put(uri, b"x")
    assert role.sessions_given == 1
    time.sleep(10)
    store.put(uri, b"x")
    assert store.get(uri) == b"x"
    assert role.sessions_given >= 2
