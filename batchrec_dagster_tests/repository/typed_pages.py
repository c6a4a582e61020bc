"""Readers of the pages' code blocks, and the output of their commands in a fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from batchrec_dagster_tests.guard.builders import REPOSITORY

FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# test_tutorial.py types the `sh` blocks of this page, except for a section.
TUTORIAL = "docs/tutorial.md"
# test_example_shop.py types these sections in a separate clone.
PROJECT, EXAMPLE_SHOP = "A project", "A shop's rules"
# test_example_shop.py types the `sh` blocks of this page afterwards.
OPERATIONS = "docs/operations.md"
# The `sh` blocks of README are the demo and commands of the tutorial.
README = "README.md"


@dataclass(frozen=True)
class CodeBlock:
    """A block of code on a page."""

    page: str
    """The path of the page in the repository."""
    line: int
    """The line of the block's first fence."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read_code_blocks(page: str, section: str = "") -> list[CodeBlock]:
    """Return the code blocks of a page.

    page: the page's path in the repository.
    section: the heading of the section to read, or empty for the whole page.
    Raises AssertionError for a fence outside any block, so that no block is overlooked.
    """
    text = (REPOSITORY / page).read_text()
    blocks = parse_code_blocks(page, text)
    if not section:
        return blocks
    before, _, after = text.partition(f"\n## {section}\n")
    first = before.count("\n")
    last = first + after.partition("\n## ")[0].count("\n") + 2
    return [block for block in blocks if first < block.line <= last]


def parse_code_blocks(page: str, text: str) -> list[CodeBlock]:
    """Return the code blocks of a page with this path and text."""
    blocks = [
        CodeBlock(
            page,
            text.count("\n", 0, match.start()) + 1,
            match[2],
            re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE),
        )
        for match in BLOCK.finditer(text)
    ]
    assert len(FENCE.findall(text)) == 2 * len(blocks), f"{page}: a block of code has no end"
    return blocks


def list_commands(page: str, section: str = "") -> list[str]:
    """Return the commands that a reader types on the page or in a section, by block."""
    blocks = read_code_blocks(page, section)
    script = [block.text for block in blocks if block.language == "sh"]
    assert script
    return script


def clone_project(root: Path) -> Path:
    """Return a clone of the project that uses these tests' environment."""
    if shutil.which("git") is None:
        pytest.skip("there is no git: apt-get install git")
    result = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        pytest.skip("this is no clone: git ls-files does not work here")
    for name in result.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
            _copy_compiled(name, root)
    environment = root / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    # With these files, make believes that it has set up the environment itself.
    (environment / "run").touch()
    (environment / "dev").touch()
    return root


def _copy_compiled(name: str, root: Path) -> None:
    """Copy the file's compiled bytecode: compiling all files again takes seconds."""
    if name.startswith("batchrec_dagster/") and name.endswith(".py"):
        bytecode_file = Path(cache_from_source(name))
        if (REPOSITORY / bytecode_file).is_file():
            (root / bytecode_file.parent).mkdir(exist_ok=True)
            shutil.copy2(REPOSITORY / bytecode_file, root / bytecode_file)


def type_commands(script: Sequence[str], clone: Path, folder: Path | None = None) -> str:
    """Run commands in the clone, one after the other, and return their output.

    folder: the folder to run the commands in, instead of the clone.
    """
    environment_variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BATCHREC_", "DAGSTER_", "AWS_", "MAKE", "MFLAGS"))
    }
    # The output goes to a file, because a background process would hold a pipe open.
    log = clone / ".batchrec.log"
    commands = clone / ".venv/bin"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", "set -euo pipefail\n" + "\n".join(script)],
            cwd=folder or clone,
            env={
                **environment_variables,
                "PYTHONPATH": str(clone),
                # `batchrec open` runs this command instead of a browser.
                "BROWSER": "true",
                **({"PATH": f"{commands}:{os.environ['PATH']}"} if folder else {}),
            },
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(timeout=600)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    output = log.read_text()
    assert process.returncode == 0, output
    return output
