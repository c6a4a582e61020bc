"""Files on a disk, and in a bucket."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.files import LocalFile
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import CopyResult, File
from batchrec_dagster.storage.object_store import CHUNK_BYTES, ObjectStore, StorageError
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.preparation.sources.support import (
    CONTENT,
    DESTINATION,
    Place,
)


def test_a_path_starts_at_the_project_or_is_absolute(place: Place) -> None:
    (place.base / "data").mkdir()
    (place.base / "data" / "ratings.csv").write_bytes(CONTENT)
    assert place.copy_content("data/ratings.csv") == CONTENT
    assert place.copy_content(str(place.base / "data" / "ratings.csv")) == CONTENT
    assert place.find_filename("data/ratings.csv") == "ratings.csv"


def test_a_path_may_start_at_home(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place.base))
    monkeypatch.setenv("USERPROFILE", str(place.base))
    (place.base / "ratings.csv").write_bytes(CONTENT)
    assert place.copy_content("~/ratings.csv") == CONTENT


def test_the_copy_tells_size_and_checksum(place: Place) -> None:
    (place.base / "a.csv").write_bytes(b"abc")
    assert place.copy("a.csv") == CopyResult(
        3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_files_fingerprint_changes_with_its_size_and_its_time(place: Place) -> None:
    file = place.base / "a.csv"
    file.write_bytes(CONTENT)
    os.utime(file, ns=(10**18, 10**18))
    first = place.compute_fingerprint("a.csv")
    assert place.compute_fingerprint("a.csv") == first
    os.utime(file, ns=(10**18, 10**18 + 1000))
    later_fingerprint = place.compute_fingerprint("a.csv")
    file.write_bytes(CONTENT + CONTENT)
    os.utime(file, ns=(10**18, 10**18))
    longer = place.compute_fingerprint("a.csv")
    assert len({first, later_fingerprint, longer}) == 3


def test_a_missing_file_is_said_so(place: Place) -> None:
    assert re.match(
        r"a.csv: there is no such file: looked at .*project.a.csv$", place.read_refusal("a.csv")
    )


def test_a_folder_is_no_file(place: Place) -> None:
    (place.base / "data").mkdir()
    assert place.read_refusal("data") == "data: it is a folder: name a file in it"


def test_an_empty_file_is_refused(place: Place) -> None:
    (place.base / "a.csv").touch()
    assert place.read_refusal("a.csv") == "a.csv: it is empty: check what writes it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.base / "pipe")
    assert "it is not a regular file" in place.read_refusal("pipe")


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as file_end:
        file_end.write(content)


def list_file(place: Place, source: str) -> File:
    (listed_file,) = parse_source(source).files(place.context)
    return listed_file.file


MORE = b"2,3,4.5,1262160236\n"


@pytest.mark.parametrize("source", ["a.csv", "./"])
@pytest.mark.parametrize("cut", [b"", b"1,7,2.5,11621", b"1,7"])
def test_a_file_that_grows_is_read_as_it_was_listed_up_to_its_last_line(
    place: Place, cut: bytes, source: str
) -> None:
    file = place.base / "a.csv"
    file.write_bytes(CONTENT + cut)
    listed_file = list_file(place, source)
    fingerprint = listed_file.fingerprint(place.context)
    assert not listed_file.has_changed(place.context)
    append(file, b"\n" + MORE)
    assert listed_file.has_changed(place.context)
    assert listed_file.copy(place.context, DESTINATION).size == len(CONTENT)
    assert place.store.get(DESTINATION) == CONTENT
    # The next run finds it changed.
    assert (
        listed_file.fingerprint(place.context) == fingerprint != place.compute_fingerprint("a.csv")
    )


def test_a_last_line_without_an_end_is_read_if_nothing_is_added(place: Place) -> None:
    (place.base / "a.csv").write_bytes(CONTENT + MORE.rstrip())
    assert place.copy_content("a.csv") == CONTENT + MORE.rstrip()


def test_a_file_that_grows_while_it_is_read_is_read_as_it_was(place: Place) -> None:
    file, content = place.base / "a.csv", CONTENT * 50_000
    file.write_bytes(content)
    chunks = LocalFile("a.csv").chunks(place.context)
    read = next(chunks)
    append(file, MORE)
    assert read + b"".join(chunks) == content


def replace_file(file: Path) -> None:
    (file.parent / "b").write_bytes(CONTENT + MORE * 9)
    (file.parent / "b").replace(file)


@pytest.mark.parametrize(
    ("content", "rewrite"),
    [
        (CONTENT + MORE, lambda file: file.write_bytes(CONTENT)),
        (CONTENT + MORE, lambda file: file.write_bytes(MORE + CONTENT * 9)),
        (CONTENT, lambda file: file.write_bytes(CONTENT.replace(b"3.5", b"4.5") + MORE)),
        (CONTENT, replace_file),
        (b"1,2", lambda file: append(file, b"34\n")),
        # This file has no lines of text.
        (b"PAR1\n\0\0", lambda file: append(file, b"PAR1")),
    ],
    ids=["shorter", "longer", "other rows", "another file", "no line yet", "no text"],
)
def test_a_file_that_is_rewritten_while_it_is_read_is_refused(
    place: Place, content: bytes, rewrite: Callable[[Path], object]
) -> None:
    file = place.base / "a.csv"
    file.write_bytes(content)
    listed_file = list_file(place, "a.csv")
    rewrite(file)
    with pytest.raises(SourceError, match=r"a.csv: it was rewritten while this run read it: try"):
        listed_file.copy(place.context, DESTINATION)
    assert place.store.head(DESTINATION) is None


@pytest.mark.parametrize("source", ["in/a.csv", "in/"])
@pytest.mark.parametrize("bucket", ["lake", "S3"])
def test_an_object_that_is_replaced_after_it_was_listed_is_refused(
    place: Place, bucket: str, source: str, request: pytest.FixtureRequest
) -> None:
    if bucket == "S3":
        server: S3Server = request.getfixturevalue("s3")
        bucket = server.create_bucket()
        place = replace(place, store=server.store())
    uri = f"s3://{bucket}/in/a.csv"
    place.store.put(uri, CONTENT)
    listed_file = list_file(place, f"s3://{bucket}/{source}")
    copy = f"s3://{bucket}/raw.csv"
    assert listed_file.copy(place.context, copy).size == len(CONTENT)
    place.store.put(uri, CONTENT + MORE)
    with pytest.raises(SourceError, match=f"{uri} was replaced while this run read it: run again"):
        listed_file.copy(place.context, copy)
    assert place.store.get(copy) == CONTENT


def test_an_object_is_copied_from_its_bucket(place: Place) -> None:
    place.store.put("s3://lake/in/ratings.csv", CONTENT)
    assert place.copy_content("s3://lake/in/ratings.csv") == CONTENT
    assert place.find_filename("s3://lake/in/ratings.csv") == "ratings.csv"


def test_an_objects_fingerprint_changes_with_its_content(place: Place) -> None:
    place.store.put("s3://lake/in.csv", CONTENT)
    first = place.compute_fingerprint("s3://lake/in.csv")
    assert place.compute_fingerprint("s3://lake/in.csv") == first
    place.store.put("s3://lake/in.csv", CONTENT + CONTENT)
    assert place.compute_fingerprint("s3://lake/in.csv") != first


def test_a_missing_object_is_said_so(place: Place) -> None:
    message = place.read_refusal("s3://lake/in.csv")
    assert "s3://lake/in.csv: there is no such object" in message
    assert message.count("s3://lake/in.csv") == 1


def test_a_large_object_is_copied_piece_by_piece(place: Place) -> None:
    content = np.random.default_rng(0).bytes(3 * CHUNK_BYTES + 7)
    place.store.put("s3://lake/in.csv", content)
    assert place.copy("s3://lake/in.csv") == CopyResult(
        len(content), hashlib.sha256(content).hexdigest()
    )
    assert place.store.get(DESTINATION) == content


class _Breaking(ObjectStore):
    """A store whose objects cannot be read to their end."""

    def chunks(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        for chunk in super().chunks(uri):
            yield chunk
            yield chunk
            raise StorageError(f"cannot read {uri}: the connection broke")


def test_what_breaks_midway_leaves_what_was_there(place: Place, tmp_path: Path) -> None:
    place.store.put("s3://lake/in.csv", bytes(2 * CHUNK_BYTES))
    place.store.put(DESTINATION, b"yesterday's")
    broken_place = replace(place, store=_Breaking(place.store.folders))
    with pytest.raises(SourceError, match=r"^cannot read s3://lake/in.csv: the connection broke$"):
        broken_place.copy("s3://lake/in.csv")
    assert place.store.get(DESTINATION) == b"yesterday's"
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(map(str, files)) == [
        str(Path("lake", "in.csv")),
        str(Path("lake", "raw", "ratings.csv")),
    ]


def test_a_destination_that_cannot_be_written_is_not_the_sources_fault(
    place: Place, tmp_path: Path
) -> None:
    (place.base / "a.csv").write_bytes(CONTENT)
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "raw").write_bytes(b"a file where a folder should be")
    with pytest.raises(StorageError, match=r"cannot write s3://lake/raw/ratings.csv"):
        place.copy("a.csv")


def test_an_empty_object_is_refused(place: Place) -> None:
    place.store.put("s3://lake/in.csv", b"")
    assert "s3://lake/in.csv: it is empty" in place.read_refusal("s3://lake/in.csv")
