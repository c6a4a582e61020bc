"""A Spark session for a few rows, in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from batchrec_dagster.preparation.spark.job import open_local_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Compiling a plan takes a hundred times as long as running it over a few rows.
QUICK = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
}
# The value of PYSPARK_SUBMIT_ARGS for a separate process that starts Spark.
QUICK_ARGUMENTS = "".join(f"--conf {name}={value} " for name, value in QUICK.items())
QUICK_ARGUMENTS += "pyspark-shell"


@contextmanager
def quick_session() -> Iterator[SparkSession]:
    """Yield a Spark session that is quick for a few rows."""
    from py4j.java_gateway import (  # type: ignore[import-untyped]
        JavaClass,
        JavaPackage,
        JVMView,
    )

    # In one preparation PySpark asks the JVM a thousand times for `functions` and its members by
    # name, and each time the JVM looks through all its jars for `functions`.
    for kind in (JVMView, JavaPackage, JavaClass):
        if not hasattr(kind.__getattr__, "cache_info"):
            kind.__getattr__ = cache(kind.__getattr__)
    # Spark's workers need Polars, which another Python on this machine may not have.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = open_local_session(1, "1g", "-XX:TieredStopAtLevel=1")
    session.sparkContext.setLogLevel("ERROR")
    for name, value in QUICK.items():
        session.conf.set(name, value)
    try:
        yield session
    finally:
        session.stop()
