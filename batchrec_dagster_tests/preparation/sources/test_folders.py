"""Many files under one name: folders and patterns, on a disk and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.parsing import parse_file, parse_source
from batchrec_dagster.preparation.sources.source import ListedFile
from batchrec_dagster_tests.preparation.sources.support import ARCHIVE, CONTENT, Place

FILES = (
    "2026/b.csv",
    "2026/a.csv",
    "2025/a.csv",
    "2025/deep/er/a.csv",
    "a.parquet",
    "_SUCCESS",
    ".hidden.csv",
    "_spark_metadata/0.csv",
)


def fill_folder(place: Place, kind: str) -> str:
    """The address of a folder with the files, up to its last slash."""
    for name in FILES:
        if kind == "path":
            path = place.base / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENT)
        else:
            place.store.put(f"s3://lake/data/{name}", CONTENT)
    if kind == "bucket":
        place.store.put("s3://lake/data_of_others/a.csv", CONTENT)
    return "data/" if kind == "path" else "s3://lake/data/"


def list_files(place: Place, source: str) -> list[ListedFile]:
    return parse_source(source).files(place.context)


@pytest.mark.parametrize("kind", ["path", "bucket"])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["2025/a.csv", "2025/deep/er/a.csv", "2026/a.csv", "2026/b.csv", "a.parquet"]),
        ("*.parquet", ["a.parquet"]),
        ("2026/*.csv", ["a.csv", "b.csv"]),
        ("20?6/a*", ["2026/a.csv"]),
        ("*/a.csv", ["2025/a.csv", "2026/a.csv"]),
        ("**/a.csv", ["2025/a.csv", "2025/deep/er/a.csv", "2026/a.csv"]),
        ("2025/**", ["a.csv", "deep/er/a.csv"]),
    ],
)
def test_a_folder_or_pattern_stands_for_its_files_in_order(
    place: Place, kind: str, pattern: str, names: list[str]
) -> None:
    source = fill_folder(place, kind) + pattern
    assert [file.filename for file in list_files(place, source)] == names


def test_what_is_written_for_people_is_no_data_unless_it_is_named(place: Place) -> None:
    for name in (
        "README",
        "Readme.txt",
        "deep/LICENSE.md",
        "about.pdf",
        "readme_2026.csv",
        "a.csv",
    ):
        path = place.base / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
    assert [file.filename for file in list_files(place, "all/")] == [
        "a.csv",
        "readme_2026.csv",
    ]
    assert [file.filename for file in list_files(place, "all/R*")] == ["README", "Readme.txt"]


def test_a_folder_needs_no_slash_on_a_disk(place: Place) -> None:
    fill_folder(place, "path")
    assert list_files(place, "data") == list_files(place, "data/")
    assert list_files(place, str(place.base / "data")) == list_files(place, "data/")


def test_a_single_file_is_a_list_of_one(place: Place) -> None:
    fill_folder(place, "path")
    (file,) = list_files(place, "data/2026/a.csv")
    assert file.file.text == "data/2026/a.csv"
    assert file.fingerprint == place.compute_fingerprint("data/2026/a.csv")


@pytest.mark.parametrize("kind", ["path", "bucket"])
def test_each_file_is_a_source_of_its_own(place: Place, kind: str) -> None:
    for file in list_files(place, fill_folder(place, kind)):
        assert place.copy_content(file.file.text) == CONTENT
        assert place.compute_fingerprint(file.file.text) == file.fingerprint


def test_names_that_become_the_same_are_kept_apart(place: Place) -> None:
    for name in ("a b.csv", "a_b.csv"):
        (place.base / name).write_bytes(CONTENT)
    names = [file.filename for file in list_files(place, "*.csv")]
    assert names[0] == "a_b.csv"
    assert len(set(names)) == 2


def test_an_empty_file_still_counts(place: Place) -> None:
    (place.base / "a.csv").touch()
    (place.base / "b.csv").write_bytes(CONTENT)
    assert [file.filename for file in list_files(place, "*.csv")] == ["a.csv", "b.csv"]


@pytest.mark.parametrize("source", ["drop", "drop/", "drop/*.csv", "drop/**/a.csv"])
def test_a_link_out_of_the_folder_is_refused_by_name(place: Place, source: str) -> None:
    drop, secret = place.base / "drop", place.base / "secret.csv"
    (drop / "new").mkdir(parents=True)
    for path in (secret, drop / "b.csv", drop / "new/b.csv"):
        path.write_bytes(CONTENT)
    for folder in (drop, drop / "new"):
        (folder / "a.csv").symlink_to(folder / "b.csv")  # stays within
    files = list_files(place, source)
    for folder in (drop, drop / "new"):
        (folder / "a.csv").unlink()
        (folder / "a.csv").symlink_to(secret)
    with pytest.raises(SourceError, match=r"drop/a\.csv: it is a link out of the folder"):
        list_files(place, source)
    # A file may also become a link after it was listed.
    changed_file = next(file.file for file in files if file.filename.endswith("a.csv"))
    with pytest.raises(SourceError, match="it is a link out of the folder"):
        changed_file.copy(place.context, "s3://lake/copy")
    assert place.store.head("s3://lake/copy") is None
    # A person who names the link itself means it.
    assert place.copy_content(str(drop / "a.csv")) == CONTENT


@pytest.mark.parametrize("source", ["s3://lake/drop/a.csv", "s3://lake/drop/"])
def test_a_link_out_of_a_bucket_that_is_a_folder_is_refused(place: Place, source: str) -> None:
    secret = place.base / "secret.csv"
    secret.write_bytes(CONTENT)
    place.store.put("s3://lake/drop/b.csv", CONTENT)
    link = place.store.folders["lake"] / "drop" / "a.csv"
    link.symlink_to(secret)

    def copy_all() -> None:
        for file in list_files(place, source):
            file.file.copy(place.context, "s3://lake/copy")

    with pytest.raises(SourceError, match=r"drop/a\.csv: it is a link out of the folder"):
        copy_all()
    link.unlink()
    link.symlink_to(link.with_name("b.csv"))
    copy_all()
    assert place.store.get("s3://lake/copy") == CONTENT


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/*.csv", "nowhere/*.csv: there is no such folder: looked at "),
        ("*.tsv", "*.tsv: no file matches"),
        ("s3://lake/none/", "s3://lake/none/: no file matches"),
        ("s3://*/a.csv", "write the bucket without a wildcard"),
    ],
)
def test_a_folder_without_files_is_said_so(place: Place, source: str, message: str) -> None:
    place.store.put("s3://lake/a.csv", CONTENT)
    with pytest.raises(SourceError) as error:
        list_files(place, source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text("ab/*?[]. é", max_size=20))
def test_every_pattern_is_a_source_or_refused_in_one_line(pattern: str) -> None:
    try:
        parse_source(pattern)
    except SourceError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (either outcome is fine)


def test_a_file_on_this_machine_is_opened_in_place_and_any_other_as_a_temporary_copy(
    place: Place, tmp_path: Path
) -> None:
    (place.base / "a.csv").write_bytes(CONTENT)
    (place.base / "ml.zip").write_bytes(ARCHIVE)
    place.store.put("s3://lake/a.csv", CONTENT)
    with parse_file("a.csv").open_locally(place.context) as path:
        assert path == place.base / "a.csv"
    with parse_file("s3://lake/a.csv").open_locally(place.context) as path:
        assert path == tmp_path / "lake" / "a.csv"
    with parse_file("ml.zip!/ml/ratings.csv").open_locally(place.context) as path:
        assert path.read_bytes() == CONTENT
    assert not path.exists()
