"""Fixtures of these tests."""

from batchrec_dagster_tests.local_personalize.support import films, local

__all__ = ["films", "local"]
