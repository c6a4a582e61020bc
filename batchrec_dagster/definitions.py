"""A code location of pipelines alone: those under defs/, the executor, the console's log."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dagster as dg

from batchrec_dagster.pipeline.console import build_console_logger
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.pipeline.loading import OwnTree, load_pipelines


def load(package: Path) -> dg.Definitions:
    """The definitions of the pipelines under defs/ of a package's folder."""
    deployment = Deployment.from_environment()
    deployment.make_home()
    with _pause_garbage_collection():
        pipelines = load_pipelines(package, OwnTree)
    return dg.Definitions.merge(
        pipelines,
        dg.Definitions(
            # Own assets of a project store their tables next to the pipelines'.
            resources={"io_manager": deployment.resources()["batchrec_parquet_io"]},
            executor=deployment.executor(),
            loggers={"console": build_console_logger(deployment.log_format)},
        ),
    )


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Collects no garbage within the block, and none of the objects made in it afterwards.

    With 200 pipelines, collecting took a seventh of the time of loading, and definitions live as
    long as their process.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Once: a process that loads again, as tests do, must get its memory back.
        if not gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()


# One `dagster` command calls this five times. A reload starts a new process.
@dg.definitions
@cache
def defs() -> dg.Definitions:
    return load(Path(__file__).parent)
