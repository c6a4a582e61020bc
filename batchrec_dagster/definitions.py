"""The Dagster code location: the pipelines under defs/, the executor and the console logger."""

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
    """Return the definitions of the pipelines in the defs/ folder of the package's folder."""
    deployment = Deployment.from_environment()
    deployment.make_home()
    with _pause_garbage_collection():
        pipelines = load_pipelines(package, OwnTree)
    return dg.Definitions.merge(
        pipelines,
        dg.Definitions(
            # A project's own assets store their tables next to the pipelines' tables.
            resources={"io_manager": deployment.resources()["batchrec_parquet_io"]},
            executor=deployment.executor(),
            loggers={"console": build_console_logger(deployment.log_format)},
        ),
    )


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Pause garbage collection within the block, and exempt its objects from later collections.

    With 200 pipelines, garbage collection took a seventh of the loading time. Definitions live as
    long as their process, so collecting them frees nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Freeze only once. A process that loads again, as tests do, must get its memory back.
        if not gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()


# One `dagster` command calls this five times. A reload starts a new process.
@dg.definitions
@cache
def defs() -> dg.Definitions:
    return load(Path(__file__).parent)
