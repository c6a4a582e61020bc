"""A Spark session on this machine."""

from __future__ import annotations

from pyspark.sql import SparkSession


def local_session(cores: int | str = "*", memory: str = "2g", java: str = "") -> SparkSession:
    """On so many cores, in one JVM with so much memory, started with the options `java`; it
    listens on this machine alone."""
    return (
        SparkSession.builder.master(f"local[{cores}]")
        .appName("batchrec preparation")
        .config("spark.driver.memory", memory)
        .config("spark.driver.extraJavaOptions", java)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "8")
        .getOrCreate()
    )
