"""Processes for tests that start many: forked from one that has imported everything already."""

import multiprocessing

# The process that the others are forked from has used nothing yet: neither threads nor SQLite.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "batchrec_dagster.local_personalize.api.service",
        "batchrec_dagster.storage.published_table",
        "batchrec_dagster_tests.nights.night",
        "batchrec_dagster_tests.local_personalize.support",
    ]
)
