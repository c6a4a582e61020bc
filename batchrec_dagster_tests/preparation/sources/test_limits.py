"""What unfolds to too much is refused before it is unfolded, and the setting is named."""

from __future__ import annotations

import gzip
import re
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.limits import LimitError, Limits
from batchrec_dagster_tests.preparation.sources.support import CONTENT, Place, zip_members

TIME = 1_162_160_236
READING = ReadSettings(columns={"user": "u", "item": "i", "timestamp": "t"})
LINE = f"a,b,{TIME}\n"


def read(path: Path) -> int:
    """The rows that were read; nothing but them may be written."""
    target = path.with_name("interactions.csv")
    with open_ratings([RawFile(path, path.name)], READING, Rules()) as ratings:
        return ratings.write_interactions(target).rows_read


def read_refusal(path: Path) -> str:
    with pytest.raises(PreparationError) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert [other for other in path.parent.iterdir() if "interactions" in other.name] == []
    return str(error.value)


def write_billion_rows(path: Path) -> None:
    """A valid file: a thousand row groups, all of which are the same million of equal rows."""
    rows = 1_000_000
    column = pl.select(pl.repeat(1, rows, dtype=pl.Int64)).to_series()
    frame = pl.DataFrame({"u": column, "i": column, "t": column})
    frame.write_parquet(path, statistics=False, row_group_size=rows, data_page_size=1 << 30)
    original_bytes = path.read_bytes()
    footer = pq.read_metadata(path)
    row_groups = pq.read_metadata(path)
    for _ in range(999):
        footer.append_row_groups(row_groups)
    footer.write_metadata_file(path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    old = int.from_bytes(original_bytes[-8:-4], "little")
    path.write_bytes(original_bytes[: -8 - old] + whole[-8 - length :])


def test_a_billion_rows_in_a_few_kilobytes_are_refused_while_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    write_billion_rows(path)
    assert pl.scan_parquet(path).select(pl.len()).collect().item() == 1_000_000_000
    assert path.stat().st_size < 400_000
    message = read_refusal(path)
    assert re.match(r"bomb.parquet: it would unfold to \d{7} rows or more from", message)
    assert "BATCHREC_MAX_FILE_GB" in message


def test_a_bomb_of_parquet_within_gzip_has_no_second_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = pa.array(["x" * 50_000])
    user = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, dtype=np.int32)), ids)
    table = pa.table({"u": user, "i": user, "t": pa.array(np.full(50_000, TIME))})
    pq.write_table(table, tmp_path / "plain", compression="none", store_schema=False)
    path = tmp_path / "bomb.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    size = path.stat().st_size
    assert 200 * size < 24 * 50_000 < 200 * (tmp_path / "plain").stat().st_size
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", str(200 * size / 1e9))
    assert "BATCHREC_MAX_FILE_GB" in read_refusal(path)


def test_a_huge_cell_that_a_dictionary_repeats_is_not_repeated(tmp_path: Path) -> None:
    rows, cell = 100_000, "x" * 1_000_000
    user = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), [cell])
    path = tmp_path / "bomb.parquet"
    times = pa.array(np.full(rows, TIME))
    pq.write_table(
        pa.table({"u": user, "i": times, "t": times}), path, compression="zstd", store_schema=False
    )
    assert path.stat().st_size < 10_000  # For 100 GB.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "BATCHREC_MAX_FILE_MEMORY_GB" in read_refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def test_ids_that_are_too_long_are_never_written(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    pl.DataFrame({"u": ["x" * 10_000] * 3, "i": ["b"] * 3, "t": [TIME] * 3}).write_parquet(path)
    assert "an id longer than 256 characters" in read_refusal(path)


@pytest.mark.parametrize(
    "lines",
    [
        lambda max_length: LINE + "x" * (max_length + 1),
        lambda max_length: LINE + "x" * (max_length + 1) + "\n" + LINE,
        lambda max_length: LINE + "x" * 3_000_000 + "\n" + LINE,
    ],
    ids=["last", "within", "longer than a chunk"],
)
def test_a_line_that_is_too_long_is_named(
    tmp_path: Path, lines: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "2")
    path = tmp_path / "long.csv"
    path.write_text("u,i,t\n" + lines(2000))
    assert read_refusal(path) == (
        "long.csv: line 3 is longer than 2 KB: fix the file, or set BATCHREC_MAX_LINE_KB if that is"
        " real data"
    )


def test_lines_of_exactly_the_limit_are_read_wherever_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.preparation.polars.decoding.CHUNK", 37)
    monkeypatch.setenv("BATCHREC_MAX_LINE_KB", "0.05")
    user = "x" * (50 - len(f",b,{TIME}"))
    path = tmp_path / "r.csv"
    path.write_text("u,i,t\n" + f"{user},b,{TIME}\n{LINE}" * 20)
    assert read(path) == 40
    path.write_text("u,i,t\n" + LINE * 7 + f"x{user},b,{TIME}\n{LINE}" * 20)
    assert "line 9 is longer" in read_line_refusal(path)


def read_line_refusal(path: Path) -> str:
    path.with_name("interactions.csv").unlink()
    return read_refusal(path)


def test_a_bomb_within_a_bomb_is_not_unpacked(place: Place) -> None:
    # A gzip file may have many members. These are all the same: 20 KB that unpack to 20 MB.
    packed_csv = gzip.compress(bytes(20_000_000)) * 1000
    (place.base / "bomb.zip").write_bytes(zip_members({"r.csv.gz": packed_csv}))
    assert (place.base / "bomb.zip").stat().st_size < 200_000
    with pytest.raises(SourceError, match=r"a compressed file, .*BATCHREC_MAX_FILE_GB"):
        place.copy("bomb.zip!/r.csv.gz")
    ordinary = gzip.compress(CONTENT)
    (place.base / "good.zip").write_bytes(zip_members({"r.csv.gz": ordinary}))
    assert place.copy_content("good.zip!/r.csv.gz") == ordinary


def test_a_setting_replaces_the_limit_that_depends_on_the_size() -> None:
    limits = Limits.from_environment({"BATCHREC_MAX_FILE_GB": "3"})
    assert limits.compute_unfolded_bytes(10) == limits.compute_unfolded_bytes(10**10) == 3 * 10**9
    limits.check(3 * 10**9, 1000)
    with pytest.raises(LimitError, match="BATCHREC_MAX_FILE_GB"):
        limits.check(3 * 10**9 + 1, 1000)
    assert Limits().compute_unfolded_bytes(1000) == 10**8
    assert Limits().compute_unfolded_bytes(10**7) == 2 * 10**9
    assert Limits().compute_unfolded_bytes(10**12) == 50 * 10**9
