"""Tests of the memory that batch jobs need for many interactions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.slow

ROWS, USERS, ITEMS = 4_000_000, 200_000, 10_000

# Each program prints by how much reading the rows has raised its peak memory.
MEASURE = """
import re, sys
from pathlib import Path
import polars as pl
from batchrec_dagster.local_personalize.engine.data import Interactions
from batchrec_dagster.local_personalize.filter_masks import ItemFilter, mask_users

rows = pl.scan_parquet(sys.argv[1])
ids = pl.Series(f"item-{number}-of-a-large-shop" for number in range(int(sys.argv[2])))

def read(dataset_type, columns, take):
    return take(rows.select(columns))

def measure():
    # The peak of getrusage would include the parent process.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = measure()
"""
READ_TO_TRAIN = 'Interactions.from_frame(rows.drop("EVENT_TYPE"))'
FILTER_ITEMS = """
ItemFilter('EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")', read, ids, latest=100)
"""
FILTER_USERS = """
mask_users('EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("view")', read, ["user"])
"""


@pytest.fixture(scope="module")
def interactions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of interactions with four event types and long ids."""
    rng = np.random.default_rng(0)
    numbers = pl.DataFrame(
        {
            "user": rng.integers(USERS, size=ROWS),
            "item": rng.integers(ITEMS, size=ROWS),
            "type": rng.integers(4, size=ROWS),
            "TIMESTAMP": np.arange(ROWS) + 1_600_000_000,
        }
    ).lazy()
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    events = {0: "view", 1: "cart", 2: "purchase", 3: "favorite"}
    numbers.select(
        pl.format("user-{}-of-a-large-shop", "user").alias("USER_ID"),
        pl.format("item-{}-of-a-large-shop", "item").alias("ITEM_ID"),
        "TIMESTAMP",
        pl.col("type").replace_strict(events).alias("EVENT_TYPE"),
    ).sink_parquet(path)
    return path


def measure_memory(program: str, path: Path) -> int:
    """Return by how many KB the program raised the peak memory of a new process."""
    code = f"{MEASURE}{program}\nprint(measure() - before)"
    arguments = [sys.executable, "-c", code, str(path), str(ITEMS)]
    return int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("program", [FILTER_ITEMS, FILTER_USERS], ids=["items", "users"])
def test_a_filter_on_interactions_needs_little_more_memory_than_training_reads(
    interactions: Path, program: str
) -> None:
    to_train = measure_memory(READ_TO_TRAIN, interactions)
    assert measure_memory(program, interactions) < 1.8 * to_train
