"""What people read, as committed texts: one file a kind, and one test that renders all of it.

Other tests assert names and numbers, such as the file, the line and the setting, so that a better
sentence changes one file: `BATCHREC_UPDATE_TEXTS=1` writes it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent
IS_UPDATE = os.environ.get("BATCHREC_UPDATE_TEXTS") == "1"


def assert_texts(kind: str, texts: Iterable[tuple[str, str]]) -> None:
    """Compare the texts with those of the file KIND.txt in this folder.

    texts: what leads to a text, and the text.
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
