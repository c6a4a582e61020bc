"""Checks that SQL in the documentation runs on two small tables and finds rows."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import duckdb
import polars as pl

from batchrec_dagster_tests.repository.typed_pages import CodeBlock

ORDERS = """\
customer_id,sku,order_id,ordered_at
C-1,P-1,10,2026-11-01
C-1,P-2,10,2026-11-01
C-1,P-9,9,2026-10-01
"""


def check_sql(block: CodeBlock, folder: Path) -> None:
    """Run the query on a person's orders and the similar items of the last ordered item.

    folder: an empty folder.
    """
    (folder / "data").mkdir()
    (folder / "data" / "orders.csv").write_text(ORDERS)
    similar_items = pl.DataFrame(
        {
            "item_id": ["P-1", "P-1", "P-2", "P-9"],
            "rank": [1, 2, 1, 1],
            "similar_item_id": ["P-2", "P-4", "P-4", "P-5"],
            "score": [0.5, 0.4, 0.3, 0.2],
        }
    )
    similar_items.write_parquet(folder / "similar_items.parquet")
    with chdir(folder), duckdb.connect() as connection:
        rows = connection.sql(block.text).fetchall()
    assert rows == [("C-1", "P-4", 0.7)], rows
