"""The address of a Dagster home's web page, for the commands that link to the page."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_ADDRESS = "http://127.0.0.1:3000"
_FILE = "web_page.txt"
# Hosts that stand for all addresses of this machine. A browser cannot open them.
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104


@contextmanager
def record_page_address(home: Path, host: str, port: int) -> Iterator[None]:
    """Make `read_page_address` return the address of this process's page during the block."""
    name = "127.0.0.1" if host in _ALL_ADDRESSES else f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}"
    file = home / _FILE
    file.write_text(address)
    try:
        yield
    finally:
        # Another process may have recorded its own page since then.
        if file.is_file() and file.read_text() == address:
            file.unlink()


def read_page_address(home: Path) -> str:
    """Return the address of the page that `batchrec ui` serves, or would serve, with this home."""
    file = home / _FILE
    return file.read_text() if file.is_file() else DEFAULT_ADDRESS


def answers(address: str) -> bool:
    """Return whether a server answers at this address."""
    try:
        page = urlsplit(address)
        with socket.create_connection((page.hostname, page.port or 80), timeout=5):
            return True
    except (OSError, ValueError):
        return False
