"""Files and outputs that the documentation shows: they are as batchrec writes them."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import polars as pl

from batchrec_dagster.samples.shop import generate_shop
from batchrec_dagster.sinks.sink import group_by_user
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.repository.typed_pages import CodeBlock

PRODUCT = REPOSITORY / "batchrec_dagster"
# What people choose: names of pipelines, lists and events.
NAMES = {"app", "home", "newsletter", "purchase", "shop", "view"}
# Where a literal ends, and the next one of the same text begins.
JOINED = re.compile(r"\"\s*\n\s*f?\"")
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
# A number, or a name that has one.
NUMBER = re.compile(r"\S*\d\S*")
# What an example leaves out at the end of a list.
ELISION = ", …]"
ROOM = re.compile(r"\[\"([a-z_]+)/<br>")
# A phrase ends where a number or a sign is, or in a table the next column.
PHRASE = re.compile(r"[A-Za-z]+(?:'[a-z]+)?(?: [A-Za-z]+(?:'[a-z]+)?)*")


def check_output(block: CodeBlock, _folder: Path) -> None:
    """Each word that a command prints there is in the code, next to the word before it."""
    corpus = _read_words_of_the_code()
    for phrase in PHRASE.findall(NUMBER.sub("0", block.text)):
        words = [word.lower() for word in WORD.findall(phrase)]
        for word in set(words) - NAMES:
            assert f" {word} " in corpus, f"no command says {word!r}"
        for word, following in pairwise(words):
            if not NAMES & {word, following}:
                assert f" {word} {following} " in corpus, f"no command says {word} {following}"


@cache
def _read_words_of_the_code() -> str:
    text = "\n".join(path.read_text() for path in PRODUCT.rglob("*.py"))
    return f" {' '.join(WORD.findall(JOINED.sub('', text))).lower()} "


def check_json(block: CodeBlock, _folder: Path) -> None:
    """Lists as an export writes them: the same keys in the same order."""
    example = json.loads(block.text.replace(ELISION, "]"))
    rows = pl.DataFrame([{"user_id": example["user_id"], **item} for item in example["items"]])
    users = pl.concat(group_by_user(rows.lazy()))
    assert json.dumps(json.loads(users.write_ndjson())) == json.dumps(example)


def check_csv(block: CodeBlock, _folder: Path) -> None:
    """The first lines of the orders and clicks that `batchrec init --example` writes."""
    assert generate_shop().orders_and_clicks.write_csv().startswith(block.text)


def check_diagram(block: CodeBlock, _folder: Path) -> None:
    """Each room of the picture is a package."""
    rooms = ROOM.findall(block.text)
    assert rooms
    for room in rooms:
        assert (PRODUCT / room).is_dir(), f"there is no {room}/"
