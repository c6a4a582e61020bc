"""The words of Personalize's files are constants of personalize/; the project's own are plain."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ROOT / "batchrec_dagster"
WORDS = {"USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE", "userId", "itemId"}
# These write of a column in people's own files, which MovieLens too calls userId.
OTHERS = {("config/ratings.py", "userId")}


def test_only_personalize_spells_the_words_of_its_files() -> None:
    spelt = {
        (path.relative_to(PRODUCT).as_posix(), node.value)
        for path in PRODUCT.rglob("*.py")
        if not path.is_relative_to(PRODUCT / "personalize")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in WORDS
    }
    assert spelt == OTHERS
