"""A quick start of many processes: they are forked from a process that has imported everything."""

import multiprocessing

# The process that the others are forked from must not have used threads or SQLite.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "batchrec_dagster.local_personalize.api.service",
        "batchrec_dagster.editions.editions",
        "batchrec_dagster_tests.guard.servers.night",
        "batchrec_dagster_tests.guard.servers.personalize",
    ]
)
