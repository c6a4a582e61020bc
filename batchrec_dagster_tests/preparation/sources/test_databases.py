"""How a database is connected to, and which types its values get."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import sqlalchemy as sa

from batchrec_dagster.preparation.sources import databases
from batchrec_dagster.preparation.sources.database_rows import write_rows
from batchrec_dagster.preparation.sources.errors import FileError


def test_a_password_leaves_the_machine_by_tls_only() -> None:
    for url, connect_options in [
        ("postgresql://u@127.0.0.1/d", {"require_auth": "!password"}),
        ("postgresql://u@db/d", {"require_auth": "!password", "sslmode": "require"}),
        ("postgresql://u@db/d?sslmode=verify-full&require_auth=password", {}),
        ("mysql+pymysql://u@db/d", {}),
    ]:
        assert databases._choose_connect_args(sa.make_url(url)) == connect_options


def test_times_of_several_zones_are_one_column(tmp_path: Path) -> None:
    winter = datetime(2024, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    summer = datetime(2024, 7, 31, 12, tzinfo=UTC)
    target = tmp_path / "rows.parquet"
    write_rows(iter([[[winter]], [[summer]]]), ["time"], tmp_path, target)
    assert pl.read_parquet(target).get_column("time").to_list() == [winter, summer]


@pytest.mark.parametrize("values", [(datetime(2024, 1, 31), date(2024, 1, 31)), (True, date.max)])
def test_values_that_no_type_holds_are_refused_without_showing_them(
    tmp_path: Path, values: tuple[Any, Any]
) -> None:
    with pytest.raises(FileError, match="types that do not go together") as error:
        write_rows(iter([[[value] for value in values]]), ["a"], tmp_path, tmp_path / "b")
    assert error.value.__cause__ is None
