"""The words of Personalize's files are constants of personalize/; the project's own are plain."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ROOT / "batchrec_dagster"
WORDS = {"USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE", "userId", "itemId"}
# These write of a column in people's own files, which MovieLens too calls userId.
OTHERS = {("config/ratings.py", "userId"), ("preparation/sources/movielens.py", "userId")}
CALQUES = r"\b(told|mend|beside|afresh|whoever|at hand|to be had)\b"


def test_only_personalize_spells_the_words_of_its_files() -> None:
    spelt = {
        (path.relative_to(PRODUCT).as_posix(), node.value)
        for path in PRODUCT.rglob("*.py")
        if not path.is_relative_to(PRODUCT / "personalize")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in WORDS
    }
    assert spelt == OTHERS


def test_the_project_is_written_in_plain_english() -> None:
    files = [
        *(
            path
            for kind in ("py", "sql", "yaml", "json", "md")
            for path in PRODUCT.rglob(f"*.{kind}")
        ),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        for _ in re.finditer(CALQUES, line, re.IGNORECASE)
    ]
    assert len(found) < 10, "\n".join(found)
