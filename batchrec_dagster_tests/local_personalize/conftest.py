"""Fixtures of these tests."""

from batchrec_dagster_tests.local_personalize.support import local

__all__ = ["local"]
