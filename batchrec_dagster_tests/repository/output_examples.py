"""Checks that files and outputs in the documentation are as batchrec writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl

from batchrec_dagster.samples.shop import generate_shop
from batchrec_dagster.sinks.sink import group_by_user
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.repository.typed_pages import CodeBlock

PRODUCT = REPOSITORY / "batchrec_dagster"
# Marks the end of a shortened list.
ELISION = ", …]"
ROOM = re.compile(r"\[\"([a-z_]+)/<br>")


def check_json(block: CodeBlock, _folder: Path) -> None:
    """Require the keys of an exported list, in the same order."""
    example = json.loads(block.text.replace(ELISION, "]"))
    rows = pl.DataFrame([{"user_id": example["user_id"], **item} for item in example["items"]])
    users = pl.concat(group_by_user(rows.lazy()))
    assert json.dumps(json.loads(users.write_ndjson())) == json.dumps(example)


def check_csv(block: CodeBlock, _folder: Path) -> None:
    """Require the first lines of the orders and clicks that `batchrec init --example` writes."""
    assert generate_shop().orders_and_clicks.write_csv().startswith(block.text)


def check_diagram(block: CodeBlock, _folder: Path) -> None:
    """Require that each room of the picture is a package."""
    rooms = ROOM.findall(block.text)
    assert rooms
    for room in rooms:
        assert (PRODUCT / room).is_dir(), f"there is no {room}/"
