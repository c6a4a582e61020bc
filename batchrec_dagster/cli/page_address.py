"""Where the web page of a Dagster home answers, for the commands that link to it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchrec_dagster.storage.processes import is_process_alive

DEFAULT_ADDRESS = "http://127.0.0.1:3000"
_FILE = "web_page.json"
# Hosts that stand for all addresses of this machine, which a browser cannot open.
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104


@contextmanager
def recorded_page(home: Path, host: str, port: int) -> Iterator[None]:
    """Lets `find_page` find the page that this process serves while the block runs."""
    name = "127.0.0.1" if host in _ALL_ADDRESSES else f"[{host}]" if ":" in host else host
    page = {"address": f"http://{name}:{port}", "pid": os.getpid(), "recorded_at": time.time()}
    file = home / _FILE
    part = file.with_name(f"{_FILE}.{os.getpid()}")
    part.write_text(json.dumps(page))
    part.replace(file)
    try:
        yield
    finally:
        # Another process may have recorded its page since.
        if _read(home).get("pid") == os.getpid():
            file.unlink(missing_ok=True)


def find_page(home: Path) -> str | None:
    """The address of the page that `batchrec ui` serves with this home; None if none does."""
    page = _read(home)
    with suppress(KeyError, TypeError, ValueError):
        if is_process_alive(int(page["pid"]), recorded_at=float(page["recorded_at"])):
            return str(page["address"])
    return None


def _read(home: Path) -> dict[str, str | int | float]:
    with suppress(OSError, ValueError):
        page = json.loads((home / _FILE).read_text())
        if isinstance(page, dict):
            return page
    return {}
