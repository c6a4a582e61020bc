"""Fixtures for tests of the embedded Personalize."""

from batchrec_dagster_tests.guard.servers.personalize import films, local

__all__ = ["films", "local"]
