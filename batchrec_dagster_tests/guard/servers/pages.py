"""Pages in a browser that notices every request of a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The maximum number of milliseconds that a page may take on a busy machine.
PATIENCE = 300_000


@contextmanager
def open_offline(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    """Open a file's page from disk, without a network, and yield the browser's tab.

    Raises AssertionError if the page requests anything, or a message, an error or a dialog appears.

    options: options of the browser's context, such as color_scheme.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_offline(True)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    uri = file.as_uri()
    surprises: list[str] = []
    tab.on("request", lambda request: surprises.append(request.url) if request.url != uri else None)
    tab.on("console", lambda message: surprises.append(message.text))
    tab.on("pageerror", lambda error: surprises.append(str(error)))
    tab.on("dialog", lambda dialog: surprises.append(dialog.message))
    tab.goto(uri)
    yield tab
    assert surprises == []
    context.close()
