"""Tests of Dagster's history in PostgreSQL, by a URL and by a project's deployment settings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from batchrec_dagster_tests.guard.builders import NEW_PROJECT
from batchrec_dagster_tests.guard.servers.postgres import (
    OWNER,
    PASSWORD,
    PostgresServer,
    postgres_server,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    pytest.importorskip("dagster_postgres")
    with postgres_server() as server:
        yield server


def of_a_url(server: PostgresServer) -> dict[str, Any]:
    """Return the storage settings by URL, as in Dagster's docs."""
    return {"storage": {"postgres": {"postgres_url": server.create_database("by_url")}}}


def of_deploy(server: PostgresServer) -> dict[str, Any]:
    """Return the storage settings of a project's deploy/dagster.yaml."""
    server.create_database("by_fields")
    settings = yaml.safe_load((NEW_PROJECT / "deploy" / "dagster.yaml").read_text())
    return {"storage": settings["storage"]}


@pytest.mark.parametrize("declare", [of_a_url, of_deploy])
def test_runs_are_remembered_in_postgresql(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declare: Any
) -> None:
    installed = version("sqlalchemy")
    if declare is of_a_url and not installed.startswith("2.0."):
        pytest.skip(
            f"SQLAlchemy {installed} is newer than the extra allows: install requirements-dev.lock"
        )
    for field, value in {
        "HOST": "127.0.0.1",
        "PORT": str(server.port),
        "USER": OWNER,
        "PASSWORD": PASSWORD,
        "DB": "by_fields",
    }.items():
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{field}", value)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(declare(server)))

    @dg.asset
    def orders() -> None: ...

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        # The web server does the same, where another driver would close the connections at once.
        instance.optimize_for_webserver(15000, 3600, 10)
        assert dg.materialize([orders], instance=instance).success
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert len(instance.get_runs()) == 1
        assert instance.get_latest_materialization_event(orders.key) is not None
