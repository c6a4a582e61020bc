"""Fixtures that tests of the guard share."""

from batchrec_dagster_tests.guard.servers.inbox import inbox
from batchrec_dagster_tests.guard.servers.personalize import films, local
from batchrec_dagster_tests.guard.strange_shop import strange_shop

__all__ = ["films", "inbox", "local", "strange_shop"]
