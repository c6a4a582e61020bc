"""Tests of the promises of a storage, in a folder and in a real bucket.

An object is whole or absent. Messages about refused operations say what to do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.faults.proxy import proxy
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.store import NotFoundError, StorageError, Store
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, STRANGER, Keys, S3Server

MB = 1024 * 1024
WRONG_SECRET = Keys(OWNER.access, "another-secret")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store.open(tmp_path / "storage")
    s3: S3Server = request.getfixturevalue("s3")
    return Store.open(f"s3://{s3.create_bucket()}/some/prefix", s3.environment())


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.create_bucket()


def test_stored_objects_can_be_read_listed_and_deleted(store: Store) -> None:
    key = "shop/a folder/näme+&=.csv"
    store.put(key, b"x,y\n")
    store.put(key, b"x,y,z\n")
    assert store.get(key) == b"x,y,z\n"
    assert store.list("shop/") == [key]
    for _ in range(2):
        store.delete(key)
    assert store.list("") == []
    with pytest.raises(NotFoundError, match=r"cannot read s3://.*/shop/a folder/näme\+&=\.csv: "):
        store.get(key)


def test_large_files_and_pieces_arrive_whole(store: Store, tmp_path: Path) -> None:
    content = os.urandom(20 * MB)
    (tmp_path / "file").write_bytes(content)
    store.put("bytes", content)
    store.put("file", tmp_path / "file")
    store.put("pieces", (content[start : start + MB] for start in range(0, 20 * MB, MB)))
    for key in ("bytes", "file", "pieces"):
        assert store.get(key) == content, key


def test_a_put_that_breaks_off_leaves_the_old_object(store: Store) -> None:
    def break_off() -> Iterator[bytes]:
        yield b"new" * 3 * MB
        raise RuntimeError("the source is gone")

    store.put("key", b"old")
    with pytest.raises(RuntimeError, match="the source is gone"):
        store.put("key", break_off())
    assert store.get("key") == b"old"
    assert store.list("") == ["key"]


def test_an_object_is_created_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: store.create("key", b"%d" % number), range(8)))
    assert sum(created) == 1
    assert store.get("key") == b"%d" % created.index(True)


def test_a_listing_goes_by_prefix_to_the_letter(store: Store) -> None:
    keys = ["a/1", "a/2/3", "a_test/1", "ab", "b"]
    for key in keys:
        store.put(key, b"x")
    for prefix in ("", "a", "a/", "a/2", "a/2/", "a_", "ab", "c", "c/", "a/1"):
        assert store.list(prefix) == [key for key in keys if key.startswith(prefix)], prefix


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@settings(max_examples=repeats(300, 30))
def test_no_key_leads_out_of_the_folder(key: str) -> None:
    with TemporaryDirectory() as outer:
        store = Store.open(Path(outer) / "storage")
        try:
            store.put(f"shop/{key}", b"x")
        except StorageError:
            return
        files = [path for path in Path(outer).rglob("*") if path.is_file()]
        assert len(files) == 1
        assert files[0].is_relative_to(Path(outer) / "storage/shop")


@pytest.mark.parametrize(
    "key",
    [
        *("../secret", "a/../../secret", "./secret", "a//secret", "a\\b"),
        *("a\nb", "a\0b", "a\x7fb", "\tab"),
    ],
)
def test_a_key_that_could_lead_elsewhere_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_text("secret")
    store = Store.open(tmp_path / "storage")
    attempts: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.put(key, b"changed"),
        lambda: store.delete(key),
        lambda: store.list(key),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError):
            attempt()
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_page_in_a_bucket_is_called_one_so_that_browsers_show_it(
    s3: S3Server, bucket: str
) -> None:
    store = Store.open(f"s3://{bucket}", s3.environment())
    for key in ("index.html", "html"):
        store.put(key, b"x")
    types = [
        s3.client().head_object(Bucket=bucket, Key=key)["ContentType"]
        for key in ("index.html", "html")
    ]
    assert types[0] == "text/html; charset=utf-8"
    assert "html" not in types[1]


@pytest.mark.parametrize("times", [1, 3])
def test_a_write_without_confirmation_is_recognised_as_done(
    s3: S3Server, bucket: str, times: int
) -> None:
    """The store recognises its own write, and does not take it for another process's."""
    with proxy(s3.endpoint) as s3_proxy:
        environment = s3.environment() | {"AWS_ENDPOINT_URL_S3": s3_proxy.address}
        store = Store.open(f"s3://{bucket}", environment)
        s3_proxy.unheard = iter([True] * times)
        assert store.create("lock", b"ours")
        assert s3_proxy.lost == times
        assert not store.create("lock", b"another's")
        assert store.get("lock") == b"ours"
        s3_proxy.unheard = iter([True] * times)
        store.delete("lock")
        assert s3_proxy.lost == 2 * times
    assert not s3.client().list_objects_v2(Bucket=bucket).get("Contents")


@pytest.mark.parametrize(
    ("keys", "fix"),
    [
        pytest.param(STRANGER, "AWS does not know the credentials", id="unknown key"),
        pytest.param(WRONG_SECRET, "the secret does not match the access key", id="wrong secret"),
    ],
)
def test_credentials_that_are_refused_are_told_apart_from_missing_permissions(
    s3: S3Server, bucket: str, keys: Keys, fix: str
) -> None:
    Store.open(f"s3://{bucket}", s3.environment()).put("key", b"old")
    store = Store.open(f"s3://{bucket}", s3.environment(keys))
    attempts: list[Callable[[], object]] = [
        lambda: store.get("key"),
        lambda: store.put("key", b"new"),
        lambda: store.list("key"),
        lambda: store.delete("key"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=f"s3://{bucket}/key: permission denied; {fix}"):
            attempt()
    assert Store.open(f"s3://{bucket}", s3.environment()).get("key") == b"old"


def test_a_read_only_role_is_told_the_missing_permission(s3: S3Server, bucket: str) -> None:
    Store.open(f"s3://{bucket}", s3.environment()).put("key", b"old")
    store = Store.open(f"s3://{bucket}", s3.environment(READER))
    assert store.get("key") == b"old"
    for data in (b"x", b"x" * 20 * MB):
        with pytest.raises(StorageError, match=r"permission denied.* s3:PutObject"):
            store.put("key", data)
    with pytest.raises(StorageError, match=r"permission denied.* s3:DeleteObject"):
        store.delete("key")
    assert store.get("key") == b"old"


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    store = Store.open("s3://no-such-bucket", s3.environment())
    attempts: list[Callable[[], object]] = [
        lambda: store.get("key"),
        lambda: store.put("key", b"x"),
        lambda: store.list(""),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="there is no bucket no-such-bucket: create it"):
            attempt()


def test_the_endpoint_that_is_given_counts_whatever_the_environment_says(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    store = Store.open(f"s3://{bucket}", s3.environment())
    store.put("key", b"x")
    assert store.list("") == ["key"]


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"{tmp_path / 'file/storage'}: Not a directory"):
        Store.open(tmp_path / "file/storage").put("a", b"x")
    kernel = "/sys/kernel"  # nobody may write to this folder
    with pytest.raises(StorageError, match=f"cannot write {kernel}/a: permission denied"):
        Store.open(kernel).put("a", b"x")


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Yield a function that sets the umask, which is the usual one at first."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def read_modes(root: Path) -> tuple[set[int], set[int]]:
    """Return the permissions of the folders and of the files."""
    modes: tuple[set[int], set[int]] = (set(), set())
    for path in [root, *root.rglob("*")]:
        modes[path.is_file()].add(path.stat().st_mode & 0o777)
    return modes


@pytest.mark.attack
def test_a_storage_that_is_new_can_be_read_by_its_user_alone(
    tmp_path: Path, umask: Callable[[int], int]
) -> None:
    # Files in a folder that other users may not open are protected anyway.
    tmp_path.chmod(0o755)
    root = tmp_path / "srv/storage"
    store = Store.open(root)
    for _ in range(2):
        store.put("raw/ratings.csv", b"ana bought a test")
        store.create("lock", b"x")
        assert read_modes(root.parent) == ({0o700}, {0o600})
        # A person deletes the storage and starts over while this process lives.
        shutil.rmtree(root.parent)


@pytest.mark.parametrize(
    ("mask", "folder", "file"),
    [(0o007, 0o770, 0o660), (0o022, 0o700, 0o600), (0o022, 0o750, 0o640), (0o022, 0o755, 0o644)],
)
def test_a_storage_that_a_team_shares_stays_as_open_as_its_folder(
    tmp_path: Path, umask: Callable[[int], int], mask: int, folder: int, file: int
) -> None:
    umask(mask)
    root = tmp_path / "storage"
    root.mkdir()
    root.chmod(folder)
    Store.open(root).put("raw/ratings.csv", b"ana bought a test")
    assert read_modes(root) == ({folder}, {file})
