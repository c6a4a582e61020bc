"""A PostgreSQL for all of these tests, a database for each."""

import uuid
from collections.abc import Iterator

import pytest

from batchrec_dagster_tests.guard.servers.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """The URL of a new database."""
    return postgres.create_database(f"test_{uuid.uuid4().hex}")
