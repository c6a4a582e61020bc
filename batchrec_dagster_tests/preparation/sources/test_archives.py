"""Files in archives."""

import zipfile

import pytest

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster_tests.guard import seams
from batchrec_dagster_tests.guard.servers.web import Page, Web
from batchrec_dagster_tests.preparation.sources.support import (
    ARCHIVE,
    CONTENT,
    DESTINATION,
    Place,
    zip_members,
)


@pytest.mark.parametrize("kind", ["path", "object", "web"])
def test_a_file_in_an_archive_is_copied_from_wherever_it_is(
    place: Place, web: Web, kind: str
) -> None:
    (place.base / "ml.zip").write_bytes(ARCHIVE)
    place.store.put("s3://lake/ml.zip", ARCHIVE)
    web.pages["/ml.zip"] = Page(ARCHIVE)
    archive = {"path": "ml.zip", "object": "s3://lake/ml.zip", "web": web.url("/ml.zip")}[kind]
    assert place.copy_content(f"{archive}!/ml/ratings.csv") == CONTENT
    assert place.find_filename(f"{archive}!/ml/ratings.csv") == "ratings.csv"
    assert place.copy_content(f"{archive}!/ml/README.txt") == b"read me"


def test_a_members_fingerprint_changes_with_the_archive_and_the_member(place: Place) -> None:
    file = place.base / "ml.zip"
    file.write_bytes(ARCHIVE)
    first = place.compute_fingerprint("ml.zip!/ml/ratings.csv")
    assert place.compute_fingerprint("ml.zip!/ml/ratings.csv") == first
    assert place.compute_fingerprint("ml.zip!/ml/README.txt") != first
    file.write_bytes(zip_members({"ml/ratings.csv": CONTENT + CONTENT}))
    assert place.compute_fingerprint("ml.zip!/ml/ratings.csv") != first


def test_a_missing_member_is_answered_with_what_there_is(place: Place) -> None:
    names = [f"{number}.csv" for number in range(12)]
    (place.base / "ml.zip").write_bytes(zip_members(dict.fromkeys([*names, "logo.png"], CONTENT)))
    message = place.read_refusal("ml.zip!/ratings.csv")
    assert message.startswith("ml.zip!/ratings.csv: there is no such file in it; it has 0.csv, ")
    assert message.endswith("9.csv and 2 more")
    assert "logo" not in message


def test_names_in_an_archive_cannot_break_the_line(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(zip_members({"a\nb\x1b[2J.csv": CONTENT}))
    assert "a?b?[2J.csv" in place.read_refusal("ml.zip!/ratings.csv")


def test_a_folder_of_an_archive_is_no_file(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(zip_members({"ml/": b"", "ml/ratings.csv": CONTENT}))
    assert "after !/ comes the path of a file" in place.read_refusal("ml.zip!/ml/")


def test_an_archive_with_one_file_is_that_file(place: Place, web: Web) -> None:
    members = {"ml/ratings.csv": CONTENT, "__MACOSX/ml/._ratings.csv": b"x", "ml/README": b"x"}
    (place.base / "Orders.ZIP").write_bytes(zip_members(members))
    assert place.copy_content("Orders.ZIP") == CONTENT
    assert place.find_filename("Orders.ZIP") == "Orders"
    web.pages["/may.zip"] = Page(zip_members({"data": CONTENT}))
    assert place.copy_content(web.url("/may.zip")) == CONTENT


def test_an_archive_with_several_files_names_them(place: Place) -> None:
    (place.base / "a.zip").write_bytes(zip_members({"1.csv": CONTENT, "b/2.csv": CONTENT}))
    assert place.read_refusal("a.zip") == (
        "a.zip: it has 1.csv, b/2.csv: add !/ and the path of one, such as ARCHIVE.zip!/orders.csv"
    )


def test_archives_in_a_folder_are_read_too(place: Place) -> None:
    folder = place.base / "data"
    folder.mkdir()
    members = {"1.csv": b"user,item,time\n1,2,1500000000\n"}
    (folder / "1.zip").write_bytes(zip_members(members))
    blocks = {"ratings": {"source": "data/*.zip"}}
    assert seams.prepare(place.base, blocks).rows == [("1", "2", 1_500_000_000)]
    (folder / "1.zip").write_bytes(zip_members({**members, "2.csv": b""}))
    with pytest.raises(seams.UserError, match=r"1.zip: it has 1.csv, 2.csv: add !/"):
        seams.prepare(place.base, blocks)


def test_an_archive_that_is_none_is_refused(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(b"<html>Not Found</html>")
    message = place.read_refusal("ml.zip!/ratings.csv")
    assert message.startswith("ml.zip!/ratings.csv: the archive is not a zip file, or is damaged")
    assert (place.base / "ml.zip").exists()


def test_a_damaged_member_is_not_published(place: Place) -> None:
    with zipfile.ZipFile(place.base / "ml.zip", "w") as archive:
        archive.writestr("ratings.csv", CONTENT)
    file = place.base / "ml.zip"
    file.write_bytes(file.read_bytes().replace(b"3.5,", b"4.5,"))
    with pytest.raises(SourceError, match=r"ratings.csv: it is damaged .*CRC.*: download or copy"):
        place.copy("ml.zip!/ratings.csv")
    assert place.store.head(DESTINATION) is None
    assert file.exists()


def test_a_damaged_download_is_not_kept(place: Place, web: Web) -> None:
    web.pages["/ml.zip"] = Page(b"no archive")
    with pytest.raises(SourceError, match="the archive is not a zip file"):
        place.copy(web.url("/ml.zip!/ratings.csv"))
    assert [path.suffix for path in place.cache.iterdir()] == [".lock"]


def test_an_empty_member_is_refused(place: Place) -> None:
    (place.base / "ml.zip").write_bytes(zip_members({"ratings.csv": b""}))
    with pytest.raises(SourceError, match=r"ml.zip!/ratings.csv: it is empty"):
        place.copy("ml.zip!/ratings.csv")
    assert place.store.head(DESTINATION) is None


def test_an_encrypted_member_is_refused(place: Place) -> None:
    content = bytearray(zip_members({"ratings.csv": CONTENT}))
    # General purpose flags, in the local header and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (place.base / "ml.zip").write_bytes(content)
    assert place.read_refusal("ml.zip!/ratings.csv") == (
        "ml.zip!/ratings.csv: it is encrypted: pack it without a password"
    )


def test_a_bomb_is_not_unpacked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.000001")
    (place.base / "ml.zip").write_bytes(zip_members({"ratings.csv": bytes(1_000_000)}))
    message = place.read_refusal("ml.zip!/ratings.csv")
    assert "it would unfold to 1000000 bytes from " in message
    assert "BATCHREC_MAX_FILE_GB" in message


def test_a_bomb_that_lies_about_its_size_unpacks_to_no_more(place: Place) -> None:
    content = zip_members({"ratings.csv": bytes(1_000_000)})
    lie = content.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (place.base / "ml.zip").write_bytes(lie)
    with pytest.raises(SourceError, match="it is damaged"):
        place.copy("ml.zip!/ratings.csv")
    assert place.store.head(DESTINATION) is None
