"""The record of raw files reads what earlier runs wrote."""

from batchrec_dagster.steps.raw_files import FileRecord, RawRecord

COPIED = {
    "source": "orders/*.csv",
    "version": "0123456789abcdef",
    "files": [
        {
            "source": "orders/a.csv",
            "uri": "s3://lake/shop/raw/a.csv",
            "fingerprint": "10 bytes, 20 ns",
            "size": 10,
            "sha256": "0123456789abcdef" * 4,
        }
    ],
    "columns": {"user": "userId"},
}
IN_PLACE = {
    "source": "a.csv",
    "files": [{"source": "a.csv", "uri": None, "fingerprint": "10 bytes, 20 ns"}],
}


def test_a_record_is_written_as_it_was_read() -> None:
    for record in (COPIED, IN_PLACE):
        read = RawRecord.from_json(record)
        assert {**read.to_json(), "version": None} == {**record, "version": None}
    assert RawRecord.from_json(COPIED).version == COPIED["version"]


def test_without_a_record_there_are_no_files() -> None:
    assert RawRecord.from_json({}).files == ()


def test_the_version_changes_with_any_file() -> None:
    one = FileRecord("a.csv", None, "1")
    records = [
        RawRecord("a", files) for files in [(one,), (FileRecord("a.csv", None, "2"),), (one, one)]
    ]
    assert len({record.version for record in records}) == 3
