import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.object_store import CHUNK, ObjectStore, StorageError
from batchrec_dagster.preparation import archives
from batchrec_dagster.preparation import download as downloads
from batchrec_dagster.preparation.sources import (
    Copied,
    SourceError,
    check_source,
    copy_source,
    describe_source,
    known_layout,
    safe_filename,
)
from batchrec_dagster.samples import hetrec, movielens
from batchrec_dagster_tests.web_server import Page, Web, serving

CONTENT = b"userId,movieId,rating,timestamp\n1,2,3.5,1162160236\n"
MONDAY = "Mon, 05 Jan 2009 10:00:00 GMT"
DESTINATION = "s3://lake/raw/ratings.csv"


@dataclass(frozen=True)
class Place:
    """A project's folder, with a bucket `lake` and a cache beside it."""

    base: Path
    cache: Path
    store: ObjectStore

    def fingerprint(self, source: str) -> str:
        return describe_source(source, self.store, base=self.base, cache=self.cache).fingerprint

    def filename(self, source: str) -> str:
        return describe_source(source, self.store, base=self.base, cache=self.cache).filename

    def copy(self, source: str) -> Copied:
        return copy_source(source, self.store, DESTINATION, base=self.base, cache=self.cache)

    def copied(self, source: str) -> bytes:
        copied = self.copy(source)
        content = self.store.get(DESTINATION)
        assert copied.size == len(content)
        return content

    def refused(self, source: str) -> str:
        """Why the source is refused, by a look and by a copy alike; nothing is published."""
        for attempt in (self.fingerprint, self.copy):
            with pytest.raises(SourceError) as caught:
                attempt(source)
            assert "\n" not in str(caught.value)
        assert self.store.head(DESTINATION) is None
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    base = tmp_path / "project"
    base.mkdir()
    return Place(base, tmp_path / "cache", ObjectStore({"lake": tmp_path / "lake"}))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "FIRST_PAUSE", 0)
    with serving() as server:
        monkeypatch.setenv(movielens.BASE_URL_VARIABLE, server.address)
        yield server


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


ARCHIVE = zipped({"ml/ratings.csv": CONTENT, "ml/README.txt": b"read me"})


# Paths


def test_a_path_starts_at_the_project_or_is_absolute(place: Place) -> None:
    (place.base / "data").mkdir()
    (place.base / "data" / "ratings.csv").write_bytes(CONTENT)
    assert place.copied("data/ratings.csv") == CONTENT
    assert place.copied(str(place.base / "data" / "ratings.csv")) == CONTENT
    assert place.filename("data/ratings.csv") == "ratings.csv"


def test_a_path_may_start_at_home(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place.base))
    monkeypatch.setenv("USERPROFILE", str(place.base))
    (place.base / "ratings.csv").write_bytes(CONTENT)
    assert place.copied("~/ratings.csv") == CONTENT


def test_the_copy_tells_size_and_checksum(place: Place) -> None:
    (place.base / "a.csv").write_bytes(b"abc")
    assert place.copy("a.csv") == Copied(
        3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_files_fingerprint_changes_with_its_size_and_its_time(place: Place) -> None:
    file = place.base / "a.csv"
    file.write_bytes(CONTENT)
    os.utime(file, ns=(10**18, 10**18))
    first = place.fingerprint("a.csv")
    assert place.fingerprint("a.csv") == first
    os.utime(file, ns=(10**18, 10**18 + 1000))
    later = place.fingerprint("a.csv")
    file.write_bytes(CONTENT + CONTENT)
    os.utime(file, ns=(10**18, 10**18))
    longer = place.fingerprint("a.csv")
    assert len({first, later, longer}) == 3


def test_a_missing_file_is_said_so(place: Place) -> None:
    assert re.match(
        r"a.csv: there is no such file: looked at .*project.a.csv$", place.refused("a.csv")
    )


def test_a_folder_is_no_file(place: Place) -> None:
    (place.base / "data").mkdir()
    assert place.refused("data") == "data: it is a folder: name a file in it"


def test_an_empty_file_is_refused(place: Place) -> None:
    (place.base / "a.csv").touch()
    assert place.refused("a.csv") == "a.csv: it is empty: look at what was to write it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.base / "pipe")
    assert "it is no regular file" in place.refused("pipe")


def test_a_file_that_changes_while_it_is_read_is_not_published(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.base / "a.csv"
    file.write_bytes(CONTENT)
    stamps = iter(["before", "after"])
    monkeypatch.setattr("batchrec_dagster.preparation.origins._stamp", lambda _: next(stamps))
    with pytest.raises(SourceError, match=r"a.csv: it was changed while it was read"):
        place.copy("a.csv")
    assert place.store.head(DESTINATION) is None


# Buckets


def test_an_object_is_copied_from_its_bucket(place: Place) -> None:
    place.store.put("s3://lake/in/ratings.csv", CONTENT)
    assert place.copied("s3://lake/in/ratings.csv") == CONTENT
    assert place.filename("s3://lake/in/ratings.csv") == "ratings.csv"


def test_an_objects_fingerprint_changes_with_its_content(place: Place) -> None:
    place.store.put("s3://lake/in.csv", CONTENT)
    first = place.fingerprint("s3://lake/in.csv")
    assert place.fingerprint("s3://lake/in.csv") == first
    place.store.put("s3://lake/in.csv", CONTENT + CONTENT)
    assert place.fingerprint("s3://lake/in.csv") != first


def test_a_missing_object_is_said_so(place: Place) -> None:
    message = place.refused("s3://lake/in.csv")
    assert "s3://lake/in.csv: there is no such object" in message
    assert message.count("s3://lake/in.csv") == 1


def test_a_large_object_is_copied_piece_by_piece(place: Place) -> None:
    content = np.random.default_rng(0).bytes(3 * CHUNK + 7)
    place.store.put("s3://lake/in.csv", content)
    assert place.copy("s3://lake/in.csv") == Copied(
        len(content), hashlib.sha256(content).hexdigest()
    )
    assert place.store.get(DESTINATION) == content


class _Breaking(ObjectStore):
    """A store whose objects cannot be read to their end."""

    def chunks(self, uri: str) -> Iterator[bytes]:
        for chunk in super().chunks(uri):
            yield chunk
            yield chunk
            raise StorageError(f"cannot read {uri}: the connection broke")


def test_what_breaks_midway_leaves_what_was_there(place: Place, tmp_path: Path) -> None:
    place.store.put("s3://lake/in.csv", bytes(2 * CHUNK))
    place.store.put(DESTINATION, b"yesterday's")
    broken = replace(place, store=_Breaking(place.store.folders))
    with pytest.raises(SourceError, match=r"^cannot read s3://lake/in.csv: the connection broke$"):
        broken.copy("s3://lake/in.csv")
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
    assert "s3://lake/in.csv: it is empty" in place.refused("s3://lake/in.csv")


# The web


def test_a_web_file_is_copied_and_not_kept(place: Place, web: Web) -> None:
    web.pages["/a/ratings.csv"] = Page(CONTENT)
    url = web.url("/a/ratings.csv?X-Amz-Signature=secret")
    assert place.copied(url) == CONTENT
    assert place.filename(url) == "ratings.csv"
    assert [path.suffix for path in place.cache.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Page(CONTENT, etag='"1"'), Page(CONTENT, etag='"2"')),
        (Page(CONTENT, etag=None, last_modified=MONDAY), Page(CONTENT + b"x", etag=None)),
        (Page(CONTENT, etag='"1"'), Page(CONTENT + b"x", etag='"1"')),
        (Page(CONTENT, etag=None), Page(CONTENT[::-1], etag=None)),
    ],
)
def test_a_web_files_fingerprint_changes_when_it_may_have(
    place: Place, web: Web, before: Page, after: Page
) -> None:
    url = web.url("/ratings.csv")
    web.pages["/ratings.csv"] = before
    first = place.fingerprint(url)
    assert place.fingerprint(url) == first
    web.pages["/ratings.csv"] = after
    assert place.fingerprint(url) != first


def test_a_web_file_without_a_version_is_always_fetched_anew(place: Place, web: Web) -> None:
    web.pages["/ratings.csv"] = Page(CONTENT, etag=None)
    assert place.copied(web.url("/ratings.csv")) == CONTENT
    web.pages["/ratings.csv"] = Page(CONTENT[::-1], etag=None)
    assert place.copied(web.url("/ratings.csv")) == CONTENT[::-1]


def test_a_missing_web_file_is_said_so_without_its_signature(place: Place, web: Web) -> None:
    message = place.refused(web.url("/a.csv?X-Amz-Signature=secret"))
    assert f"there is no {web.url('/a.csv')} (404" in message
    assert "secret" not in message


def test_an_empty_web_file_is_refused(place: Place, web: Web) -> None:
    web.pages["/a.csv"] = Page(b"")
    with pytest.raises(SourceError, match="it is empty"):
        place.fingerprint(web.url("/a.csv"))
    with pytest.raises(SourceError, match="it is empty"):
        place.copy(web.url("/a.csv"))
    assert place.store.head(DESTINATION) is None


def test_what_is_cut_for_good_changes_nothing_that_is_published(place: Place, web: Web) -> None:
    place.store.put(DESTINATION, b"yesterday's")
    # The look, a download that is cut, and then nothing but trouble.
    web.pages["/a.csv"] = Page(CONTENT, cuts=[0, 9], statuses=[200, 200, *[500] * 20])
    with pytest.raises(SourceError, match=r"^cannot fetch .*/a.csv: the server says 500"):
        place.copy(web.url("/a.csv"))
    assert [path for path, _ in web.asked] == ["/a.csv"] * 5
    assert place.store.get(DESTINATION) == b"yesterday's"


# Archives


@pytest.mark.parametrize("kind", ["path", "object", "web"])
def test_a_file_in_an_archive_is_copied_from_wherever_it_is(
    place: Place, web: Web, kind: str
) -> None:
    (place.base / "ml.zip").write_bytes(ARCHIVE)
    place.store.put("s3://lake/ml.zip", ARCHIVE)
    web.pages["/ml.zip"] = Page(ARCHIVE)
    archive = {"path": "ml.zip", "object": "s3://lake/ml.zip", "web": web.url("/ml.zip")}[kind]
    assert place.copied(f"{archive}!/ml/ratings.csv") == CONTENT
    assert place.filename(f"{archive}!/ml/ratings.csv") == "ratings.csv"
    assert place.copied(f"{archive}!/ml/README.txt") == b"read me"


def test_a_members_fingerprint_changes_with_the_archive_and_the_member(place: Place) -> None:
    file = place.base / "ml.zip"
    file.write_bytes(ARCHIVE)
    first = place.fingerprint("ml.zip!/ml/ratings.csv")
    assert place.fingerprint("ml.zip!/ml/ratings.csv") == first
    assert place.fingerprint("ml.zip!/ml/README.txt") != first
    file.write_bytes(zipped({"ml/ratings.csv": CONTENT + CONTENT}))
    assert place.fingerprint("ml.zip!/ml/ratings.csv") != first


def test_a_missing_member_is_answered_with_what_there_is(place: Place) -> None:
    names = [f"{number}.csv" for number in range(12)]
    (place.base / "ml.zip").write_bytes(zipped(dict.fromkeys([*names, "logo.png"], CONTENT)))
    message = place.refused("ml.zip!/ratings.csv")
    assert message.startswith("ml.zip!/ratings.csv: there is no such file in it; it has 0.csv, ")
    assert message.endswith("9.csv and 2 more")
    assert "logo" not in message


def test_names_in_an_archive_cannot_break_the_line(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(zipped({"a\nb\x1b[2J.csv": CONTENT}))
    assert "a?b?[2J.csv" in place.refused("ml.zip!/ratings.csv")


def test_a_folder_of_an_archive_is_no_file(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(zipped({"ml/": b"", "ml/ratings.csv": CONTENT}))
    assert "after !/ comes the path of a file" in place.refused("ml.zip!/ml/")


def test_an_archive_that_is_none_is_refused(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(b"<html>Not Found</html>")
    message = place.refused("ml.zip!/ratings.csv")
    assert message.startswith("ml.zip!/ratings.csv: the archive is no zip file, or damaged")
    assert (place.base / "ml.zip").exists()


def test_a_damaged_member_is_not_published(place: Place) -> None:
    with zipfile.ZipFile(place.base / "ml.zip", "w") as archive:
        archive.writestr("ratings.csv", CONTENT)
    file = place.base / "ml.zip"
    file.write_bytes(file.read_bytes().replace(b"3.5,", b"4.5,"))
    with pytest.raises(SourceError, match=r"ratings.csv: it is damaged .*CRC.*: get it again"):
        place.copy("ml.zip!/ratings.csv")
    assert place.store.head(DESTINATION) is None
    assert file.exists()


def test_a_damaged_download_is_not_kept(place: Place, web: Web) -> None:
    web.pages["/ml.zip"] = Page(b"no archive")
    with pytest.raises(SourceError, match="the archive is no zip file"):
        place.copy(web.url("/ml.zip!/ratings.csv"))
    assert [path.suffix for path in place.cache.iterdir()] == [".lock"]


def test_an_empty_member_is_refused(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(zipped({"ratings.csv": b""}))
    with pytest.raises(SourceError, match=r"ml.zip!/ratings.csv: it is empty"):
        place.copy("ml.zip!/ratings.csv")
    assert place.store.head(DESTINATION) is None


def test_an_encrypted_member_is_refused(place: Place) -> None:
    content = bytearray(zipped({"ratings.csv": CONTENT}))
    # General purpose flags, in the local header and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (place.base / "ml.zip").write_bytes(content)
    assert place.refused("ml.zip!/ratings.csv") == (
        "ml.zip!/ratings.csv: it is encrypted: pack it without a password"
    )


def test_a_bomb_is_not_unpacked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HARMLESS_SIZE", 1000)
    (place.base / "ml.zip").write_bytes(zipped({"ratings.csv": bytes(1_000_000)}))
    message = place.refused("ml.zip!/ratings.csv")
    assert "to 1000000 bytes, more than 200 times" in message


def test_a_bomb_that_lies_about_its_size_unpacks_to_no_more(place: Place) -> None:
    content = zipped({"ratings.csv": bytes(1_000_000)})
    lie = content.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (place.base / "ml.zip").write_bytes(lie)
    with pytest.raises(SourceError, match="it is damaged"):
        place.copy("ml.zip!/ratings.csv")
    assert place.store.head(DESTINATION) is None


# Samples and MovieLens


REAL = Path(__file__).parents[2] / "shared" / "data" / "ml-latest-small"


@pytest.mark.skipif(not REAL.exists(), reason=f"there is no {REAL.name} beside the repository")
def test_a_real_set_is_copied_whole_and_laid_out_as_known(place: Place) -> None:
    file = REAL / "ratings.csv"
    copied = place.copied(str(file))
    assert hashlib.sha256(copied).digest() == hashlib.sha256(file.read_bytes()).digest()
    layout = known_layout("movielens://ml-latest-small")
    assert layout is not None
    columns = [layout.user, layout.item, layout.rating, layout.timestamp]
    assert copied.splitlines()[0].decode().split(layout.delimiter) == columns


def test_the_sample_is_a_source(place: Place) -> None:
    assert place.copied("sample://hetrec/movies.dat") == hetrec.movies_file()
    assert place.filename("sample://hetrec") == "user_ratedmovies-timestamps.dat"
    assert place.fingerprint("sample://hetrec") == "version 1, seed 2011"
    assert known_layout("sample://hetrec") == hetrec.LAYOUT
    assert known_layout("sample://hetrec/movies.dat") is None


def test_a_movielens_set_and_the_files_beside_it_are_sources(place: Place, web: Web) -> None:
    content = zipped({"ml-latest-small/ratings.csv": CONTENT, "ml-latest-small/movies.csv": b"m"})
    web.pages["/movielens/ml-latest-small.zip"] = Page(content)
    assert place.copied("movielens://ml-latest-small") == CONTENT
    assert place.copied("movielens://ml-latest-small/movies.csv") == b"m"
    assert [path for path, _ in web.asked if path.endswith(".zip")] == [
        "/movielens/ml-latest-small.zip"
    ]
    assert known_layout("movielens://ml-latest-small/movies.csv") is None


def test_a_look_at_a_movielens_set_fetches_nothing(place: Place, web: Web) -> None:
    assert place.filename("movielens://ml-100k") == "u.data"
    assert place.fingerprint("movielens://ml-100k") != place.fingerprint("movielens://ml-1m")
    assert web.asked == []


# What is no source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "the source is empty: write a path, s3://"),
        (" ", "the source is empty"),
        ("a\nb.csv", "'a\\nb.csv' has an invisible character in it"),
        ("ftp://host/a.csv", "there is nothing under ftp://; write a path, s3://"),
        ("file:///a.csv", "there is nothing under file://"),
        ("s3:/bucket/a.csv", "after the colon come two slashes"),
        ("s3://bucket", "it names a bucket or a folder"),
        ("s3://bucket/folder/", "it names a bucket or a folder"),
        ("s3://bucket/../a.csv", "is not allowed"),
        ("https:///a.csv", "there is no host"),
        ("https://host:port/a.csv", "it is no web address"),
        ("https://me:secret@host/a.csv", "it has a password in it"),
        ("https://host/my ratings.csv", "a space is %20"),
        ("ml.zip", "it is an archive: add !/"),
        ("https://host/ML.ZIP?x=1", "it is an archive: add !/"),
        ("ml.zip!/", "after !/ comes the path"),
        ("movielens://ml-1m!/a.csv", "after a slash, without !"),
        ("movielens://ml-9m", "write movielens:// and one of hetrec2011, ml-latest-small"),
        ("sample://movies", "the one sample is sample://hetrec"),
        ("sample://hetrec/tags.dat", "sample://hetrec has the files user_rated"),
    ],
)
def test_what_is_no_source_is_refused_before_a_look(source: str, reason: str) -> None:
    with pytest.raises(SourceError, match=re.escape(reason)) as caught:
        check_source(source)
    assert "\n" not in str(caught.value)


def test_a_query_is_not_shown_where_it_may_be_a_signature() -> None:
    with pytest.raises(SourceError) as caught:
        check_source("https://host/ml.zip?signature=secret")
    assert str(caught.value).startswith("https://host/ml.zip: ")
    assert "secret" not in str(caught.value)


def refusal(source: str) -> str | None:
    try:
        check_source(source)
    except SourceError as error:
        return str(error)
    return None


@given(st.text())
def test_every_text_is_a_source_or_refused_in_one_line(source: str) -> None:
    assert len((refusal(source) or "").splitlines()) <= 1


SCHEMES = st.sampled_from(["s3", "http", "https", "sample", "movielens", "ftp", "S3", ""])


@given(SCHEMES, st.text("ab/:@[]!?#%. \\\0é", max_size=20))
def test_every_address_is_a_source_or_refused_in_one_line(scheme: str, rest: str) -> None:
    assert len((refusal(f"{scheme}://{rest}") or "").splitlines()) <= 1


@given(st.text())
def test_every_name_becomes_a_plain_one(name: str) -> None:
    plain = safe_filename(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", plain)
    assert safe_filename(plain) == plain


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("/data/ratings.csv", "ratings.csv"),
        ("C:\\data\\my ratings.csv", "my_ratings.csv"),
        ("_hidden.csv", "hidden.csv"),
        ("..", "ratings"),
        ("a" * 200 + ".csv", "a" * 116 + ".csv"),
    ],
)
def test_names_stay_recognisable(name: str, plain: str) -> None:
    assert safe_filename(name) == plain
