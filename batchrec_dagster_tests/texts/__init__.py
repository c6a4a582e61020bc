"""Committed texts that people read, in a file for each kind, and a test that renders them.

All other tests assert only names and numbers, such as the file, the line and the setting. So a
better sentence changes a single file, which `BATCHREC_UPDATE_TEXTS=1` writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent
IS_UPDATE = os.environ.get("BATCHREC_UPDATE_TEXTS") == "1"


def assert_texts(kind: str, texts: Iterable[tuple[str, str]]) -> None:
    """Compare the texts with the file KIND.txt in this folder.

    texts: pairs of the text's cause and the text.
    """
    content = "\n".join(f"{title}\n{_indent(text)}\n" for title, text in texts)
    file = FOLDER / f"{kind}.txt"
    if IS_UPDATE:
        file.write_text(content, encoding="utf-8")
    assert content.splitlines() == file.read_text(encoding="utf-8").splitlines(), (
        f"if the new texts are right: BATCHREC_UPDATE_TEXTS=1 pytest …, and commit {file.name}"
    )


def _indent(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
