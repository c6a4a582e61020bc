"""Delta tables that name files which are not their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

ROWS = pa.table(
    {
        "user": [str(number % 40) for number in range(400)],
        "item": [number % 23 for number in range(400)],
        "ts": [1_500_000_000 + 3600 * number for number in range(400)],
    }
)


def write_delta(location: str, options: Mapping[str, str] | None = None) -> None:
    """Write a Delta table of ROWS."""
    from deltalake import write_deltalake

    write_deltalake(location, ROWS, storage_options=dict(options) if options else None)


def change_commit(commit: bytes, change: Mapping[str, Any]) -> bytes:
    """The commit with other values in its action `add`."""
    actions = [json.loads(line) for line in commit.splitlines()]
    for action in actions:
        if "add" in action:
            action["add"] |= change
    return "\n".join(map(json.dumps, actions)).encode()
