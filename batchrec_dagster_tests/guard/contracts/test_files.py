"""Tests of a source's files on this machine and in S3.

The tests cover the choice of files, changes during reading, and paths that would leave a folder or
an archive.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import write_source, zip_members
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.s3 import S3Server

CONTENT = b"userId,movieId,rating,timestamp\n1,2,3.5,1162160236\n"
MORE = b"2,3,4.5,1262160236\n"
ARCHIVE = zip_members({"ml/ratings.csv": CONTENT, "ml/README.txt": b"read me"})


def copy(folder: Path, source: str, meanwhile: Callable[[], object] = lambda: None) -> bytes:
    """Return the copy of a source with a single file."""
    (copied,) = preparation.copy_raw(folder, {"source": source}, meanwhile)
    return copied.path.read_bytes()


def read_refusal(folder: Path, source: str, meanwhile: Callable[[], object] = lambda: None) -> str:
    """Return the one-line message that refuses the source, and require that nothing is copied."""
    with pytest.raises(preparation.UserError) as error:
        copy(folder, source, meanwhile)
    assert "\n" not in str(error.value)
    assert not [path for path in folder.glob("raw/**/*") if path.is_file()]
    return str(error.value)


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as end:
        end.write(content)


# One file


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "the source is empty: write a path, s3://"),
        ("a\nb.csv", "'a\\nb.csv' has an invisible character in it"),
        ("ftp://host/a.csv", "ftp:// is not supported"),
        ("file:///a.csv", "file:// is not supported"),
        ("s3:/bucket/a.csv", "two slashes after the colon"),
        ("s3://bucket/../a.csv", "is not allowed"),
        ("s3://*/a.csv", "write the bucket without a wildcard"),
        ("https:///a.csv", "there is no host"),
        ("https://host:port/a.csv", "it is not a web address"),
        ("https://me:secret@host/a.csv", "it has a password in it"),
        ("https://me:secret@host/a.zip!/b.csv", "it has a password in it"),
        ("https://host/my ratings.csv", "a space is %20"),
        ("https://host/my ratings?signature=secret", "https://host/my ratings: "),
        ("ml.zip!/", "after !/ comes the path"),
        ("sample://movies", "the only sample is sample://hetrec"),
    ],
)
def test_an_invalid_source_is_refused_without_a_look(source: str, reason: str) -> None:
    with pytest.raises(preparation.UserError) as error:
        preparation.declare({"ratings": {"source": source}})
    # pydantic's message shows the given value. The user's message is a line without it.
    message = str(error.value).partition("Value error, ")[2].partition(" [type=")[0]
    assert reason in message
    assert "secret" not in message


@given(st.text("ab/:@[]!?#%*. \\\0é", max_size=20), st.sampled_from(["", "s3://", "https://"]))
def test_every_text_is_a_source_or_refused(text: str, scheme: str) -> None:
    try:
        preparation.declare({"ratings": {"source": f"{scheme}{text}"}})
    except preparation.UserError as error:
        assert "ratings.source" in str(error)  # noqa: PT017 (either outcome is fine)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "a.csv: there is no such file: looked at "),
        (lambda path: path.touch(), "a.csv: it is empty"),
        (lambda path: path.mkdir(), "a.csv"),
        (os.mkfifo, "it is not a regular file"),
    ],
    ids=["missing", "empty", "an empty folder", "a pipe"],
)
def test_a_path_that_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "a.csv")
    assert message in read_refusal(tmp_path, "a.csv")


@pytest.mark.parametrize("source", ["a.csv", "./"])
@pytest.mark.parametrize("cut", [b"", b"1,7,2.5,11621", b"1,7"])
def test_a_file_that_grows_is_read_as_it_was_listed_up_to_its_last_line(
    tmp_path: Path, cut: bytes, source: str
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(CONTENT + cut)
    (copied,) = preparation.copy_raw(
        tmp_path, {"source": source}, lambda: append(file, b"\n" + MORE)
    )
    assert copied.path.read_bytes() == CONTENT
    # The next run finds it changed.
    (version,) = preparation.list_files(tmp_path, {"source": "a.csv"}).values()
    assert version != copied.version


def test_a_last_line_without_an_end_is_read_if_nothing_is_added(tmp_path: Path) -> None:
    write_source(tmp_path, CONTENT + MORE.rstrip(), "a.csv")
    assert copy(tmp_path, "a.csv") == CONTENT + MORE.rstrip()


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
        (b"PAR1\n\0\0", lambda file: append(file, b"PAR1")),
    ],
    ids=["shorter", "longer", "other rows", "another file", "no line yet", "no text"],
)
def test_a_file_that_is_rewritten_while_it_is_read_is_refused(
    tmp_path: Path, content: bytes, rewrite: Callable[[Path], object]
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    message = read_refusal(tmp_path, "a.csv", lambda: rewrite(file))
    assert message.startswith("a.csv: it was rewritten while this run read it")


@pytest.mark.parametrize("source", ["in/a.csv", "in/"])
def test_an_object_that_is_replaced_while_it_is_read_is_refused(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()

    def put(content: bytes) -> None:
        s3.client().put_object(Bucket=bucket, Key="in/a.csv", Body=content)

    put(CONTENT)
    source = f"s3://{bucket}/{source}"
    assert copy(tmp_path / "first", source) == CONTENT
    message = read_refusal(tmp_path, source, lambda: put(CONTENT + MORE))
    assert f"s3://{bucket}/in/a.csv was replaced while this run read it" in message


def test_a_large_file_is_copied_whole(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(30_000_007)
    write_source(tmp_path, content, "a.bin")
    assert copy(tmp_path, "a.bin") == content


# Folders and patterns


FILES = (
    *("2026/b.csv", "2026/a.csv", "2025/a.csv", "2025/deep/er/a.csv", "a.parquet"),
    *("_SUCCESS", ".hidden.csv", "_spark_metadata/0.csv"),
)


@pytest.mark.parametrize("place", ["folder", "S3"])
def test_a_folder_or_pattern_stands_for_its_files_in_order(
    tmp_path: Path, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "in/"
    if place == "S3":
        s3: S3Server = request.getfixturevalue("s3")
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        bucket = s3.create_bucket()
        for name in FILES:
            s3.client().put_object(Bucket=bucket, Key=f"data/{name}", Body=CONTENT)
        s3.client().put_object(Bucket=bucket, Key="data_of_others/a.csv", Body=CONTENT)
        root = f"s3://{bucket}/data/"
    else:
        write_source(tmp_path, dict.fromkeys(FILES, CONTENT))
    for pattern, names in [
        ("", ["2025/a.csv", "2025/deep/er/a.csv", "2026/a.csv", "2026/b.csv", "a.parquet"]),
        ("*.parquet", ["a.parquet"]),
        ("2026/*.csv", ["a.csv", "b.csv"]),
        ("20?6/a*", ["2026/a.csv"]),
        ("*/a.csv", ["2025/a.csv", "2026/a.csv"]),
        ("**/a.csv", ["2025/a.csv", "2025/deep/er/a.csv", "2026/a.csv"]),
        ("2025/**", ["a.csv", "deep/er/a.csv"]),
    ]:
        assert [*preparation.list_files(tmp_path, {"source": root + pattern})] == names
    with pytest.raises(preparation.UserError, match="no file matches"):
        preparation.list_files(tmp_path, {"source": f"{root}*.tsv"})


def test_readme_files_are_no_data_unless_they_are_named(tmp_path: Path) -> None:
    names = ["README", "Readme.txt", "deep/LICENSE.md", "about.pdf", "readme_2026.csv", "a.csv"]
    write_source(tmp_path, dict.fromkeys(names, CONTENT))
    assert [*preparation.list_files(tmp_path, {"source": "in/"})] == ["a.csv", "readme_2026.csv"]
    assert [*preparation.list_files(tmp_path, {"source": "in/R*"})] == ["README", "Readme.txt"]


def test_names_that_become_the_same_are_kept_apart(tmp_path: Path) -> None:
    write_source(tmp_path, {"a b.csv": CONTENT, "a_b.csv": CONTENT + MORE})
    copies = preparation.copy_raw(tmp_path, {"source": "in/*.csv"})
    assert sorted(copied.path.read_bytes() for copied in copies) == [CONTENT, CONTENT + MORE]


def test_only_a_changed_file_of_a_folder_has_another_version(tmp_path: Path) -> None:
    write_source(tmp_path, {"a.csv": CONTENT, "b.csv": CONTENT})
    before = preparation.list_files(tmp_path, {"source": "in/"})
    append(tmp_path / "in/b.csv", MORE)
    after = preparation.list_files(tmp_path, {"source": "in/"})
    assert before["a.csv"] == after["a.csv"]
    assert before["b.csv"] != after["b.csv"]


@pytest.mark.parametrize("source", ["in/", "in/*.csv", "in/**/a.csv"])
def test_a_link_out_of_the_folder_is_refused_by_name(tmp_path: Path, source: str) -> None:
    secret, link = tmp_path / "secret.csv", tmp_path / "in/a.csv"
    secret.write_bytes(CONTENT)
    write_source(tmp_path, {"b.csv": CONTENT})

    def link_to(target: Path) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    link_to(tmp_path / "in/b.csv")
    assert "a.csv" in preparation.list_files(tmp_path, {"source": source})
    # A file may also become a link after it was listed.
    with pytest.raises(preparation.UserError, match=r"in/a\.csv: it is a link out of the folder"):
        preparation.copy_raw(tmp_path, {"source": source}, lambda: link_to(secret))
    with pytest.raises(preparation.UserError, match=r"in/a\.csv: it is a link out of the folder"):
        preparation.list_files(tmp_path, {"source": source})
    # A person who names the link wants the link's target.
    assert copy(tmp_path, str(link)) == CONTENT


# Archives


@pytest.mark.parametrize(
    ("content", "source", "message"),
    [
        (b"<html>Not Found</html>", "a.zip!/ratings.csv", "is not a zip file, or is damaged"),
        (ARCHIVE, "a.zip!/none.csv", "there is no such file in it; it has ml/ratings.csv"),
        (ARCHIVE, "a.zip!/ml/", "after !/ comes the path"),
        (zip_members({"a.csv": b""}), "a.zip!/a.csv", "it is empty"),
        (zip_members({"a\nb\x1b[2J.csv": CONTENT}), "a.zip!/x.csv", "a?b?[2J.csv"),
        (zip_members({"1.csv": CONTENT, "b/2.csv": b""}), "a.zip", "it has 1.csv, b/2.csv: add !/"),
    ],
)
def test_a_missing_member_of_an_archive_is_answered_with_its_members(
    tmp_path: Path, content: bytes, source: str, message: str
) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(preparation.UserError) as error:
        preparation.copy_raw(tmp_path, {"source": source})
    # pydantic shows the given value of a source that cannot be declared.
    assert message in str(error.value)


def test_an_archive_is_listed_without_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor of new files lists the archive every minute."""
    (tmp_path / "a.zip").write_bytes(ARCHIVE)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert preparation.list_files(tmp_path, {"source": "a.zip!/ml/ratings.csv"})


def test_a_damaged_or_encrypted_member_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ratings.csv", CONTENT)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"3.5,", b"4.5,"))
    assert "ratings.csv: it is damaged" in read_refusal(tmp_path, "a.zip!/ratings.csv")
    encrypted = bytearray(content)
    # the general purpose flags in the local header and in the directory
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(encrypted)
    assert "ratings.csv: it is encrypted" in read_refusal(tmp_path, "a.zip!/ratings.csv")


@given(changes=st.dictionaries(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255), max_size=4))
@settings(max_examples=repeats(300, 50), deadline=None)
def test_an_archive_that_is_damaged_anywhere_is_refused_in_a_line(changes: dict[int, int]) -> None:
    content = bytearray(ARCHIVE)
    for position, byte in changes.items():
        content[position] = byte
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.zip").write_bytes(content)
        try:
            assert copy(Path(folder), "a.zip!/ml/ratings.csv") == CONTENT
        except preparation.UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is fine)


def test_a_member_is_packed_as_every_program_packs_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ratings.csv", CONTENT)
    assert "packed by method 14: pack it as a plain zip" in read_refusal(tmp_path, "a.zip")


def test_a_folder_may_be_of_archives(tmp_path: Path) -> None:
    rows = b"user,item,time\n1,2,1500000000\n"
    write_source(tmp_path, {"1.zip": zip_members({"1.csv": rows})})
    blocks: dict[str, Any] = {"ratings": {"source": "in/*.zip"}}
    assert preparation.prepare(tmp_path, blocks).rows == [("1", "2", 1_500_000_000)]
    write_source(tmp_path, {"1.zip": zip_members({"1.csv": rows, "2.csv": b""})})
    with pytest.raises(preparation.UserError, match=r"1.zip: it has 1.csv, 2.csv: add !/"):
        preparation.prepare(tmp_path, blocks)


def test_the_sample_is_generated_the_same_each_time(tmp_path: Path) -> None:
    first, second = (copy(tmp_path / name, "sample://hetrec/movies.dat") for name in "ab")
    assert first == second
    assert first.count(b"\n") == 10_110
    (version,) = preparation.list_files(tmp_path, {"source": "sample://hetrec"}).values()
    assert [version] == [*preparation.list_files(tmp_path, {"source": "sample://hetrec"}).values()]
