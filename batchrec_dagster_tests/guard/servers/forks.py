"""Processes for tests that start many: forked from one that has imported everything already."""

import multiprocessing

# The process that others are forked from must not have used threads or SQLite before.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "batchrec_dagster.local_personalize.api.service",
        "batchrec_dagster.storage.editions",
        "batchrec_dagster_tests.guard.servers.night",
        "batchrec_dagster_tests.guard.servers.personalize",
    ]
)
