"""Tests of sources of ratings that no server on this machine can stand for."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import requests
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.preparation.sources import databases, web_request
from batchrec_dagster.preparation.sources.database_rows import write_rows
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.peers import is_public
from batchrec_dagster.preparation.sources.source import make_filename
from batchrec_dagster.preparation.sources.web_request import DownloadError


@pytest.mark.attack
@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:93.184.215.14", True),
        ("::ffff:169.254.169.254", False),
        ("168.63.129.16", False),
        ("::ffff:168.63.129.16", False),
        ("192.0.0.192", False),
        ("100.100.100.200", False),
        # IPv4 addresses within IPv6: 127.0.0.1, 169.254.169.254, 10.0.0.1.
        ("::7f00:1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:a00:1::1", False),
        ("2001:0:5db8:d70e:0:0:f5ff:fffe", False),
        # These are addresses behind a gateway of this network.
        ("64:ff9b::5db8:d70e", False),
        ("fd00:ec2::254", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.attack
def test_nothing_leads_from_https_back_to_http() -> None:
    answer = requests.Response()
    answer.status_code = 302
    answer.url = "https://93.184.215.14/b?secret=1"
    for location in ("https://1.1.1.1/a", "/c"):
        answer.headers["Location"] = location
        web_request._require_safe_redirect(answer)
    answer.headers["Location"] = "http://example.com/a?secret=2"
    with pytest.raises(DownloadError, match=r"redirects to http://example.com/a, .*over https"):
        web_request._require_safe_redirect(answer)


@pytest.mark.attack
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


@given(st.text() | st.sampled_from(["..", "_hidden.csv", "C:\\a\\b c.csv", "a" * 200 + ".csv"]))
def test_every_name_becomes_a_plain_one(name: str) -> None:
    plain = make_filename(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", plain)
    assert make_filename(plain) == plain
    assert plain.endswith(".csv") or not name.endswith(".csv")
