"""Fixtures that tests of the guard share."""

from batchrec_dagster_tests.guard.servers.inbox import inbox
from batchrec_dagster_tests.guard.servers.personalize import films, local
from batchrec_dagster_tests.guard.servers.postgres import postgres, postgres_url
from batchrec_dagster_tests.guard.strange_shop import strange_shop

__all__ = ["films", "inbox", "local", "postgres", "postgres_url", "strange_shop"]
