"""Tests that load, parse or run each example of README and docs; no example is skipped."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.config.environment import VARIABLES
from batchrec_dagster_tests.guard.builders import REPOSITORY, Project
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.repository.output_examples import (
    check_csv,
    check_diagram,
    check_json,
)
from batchrec_dagster_tests.repository.python_examples import check_python
from batchrec_dagster_tests.repository.shell_examples import (
    check_mention,
    check_shell,
    split_commands,
)
from batchrec_dagster_tests.repository.sql_examples import check_sql
from batchrec_dagster_tests.repository.typed_pages import (
    BLOCK,
    OPERATIONS,
    README,
    TUTORIAL,
    CodeBlock,
    parse_code_blocks,
    read_code_blocks,
)
from batchrec_dagster_tests.repository.yaml_examples import check_setting, check_yaml

PAGES = [
    README,
    "CONTRIBUTING.md",
    *sorted(
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("docs", "examples")
        for path in (REPOSITORY / folder).rglob("*.md")
    ),
]
RULES: dict[str, Callable[[CodeBlock, Path], None]] = {
    "bash": check_shell,
    "csv": check_csv,
    "json": check_json,
    "mermaid": check_diagram,
    "python": check_python,
    "sh": check_shell,
    "sql": check_sql,
    "yaml": check_yaml,
}
# Readers type the blocks `sh` and `bash`. Tests run the `sh` blocks of these pages.
TYPED = (README, TUTORIAL, OPERATIONS, "examples/dbt/README.md")
# Commands in `bash` are parsed here. These tests run them, or give the reason why none does.
BASH = {
    README: "pipeline/test_team_project.py installs the wheel",
    "CONTRIBUTING.md": "it runs the tests",
    "docs/aws.md": "it needs an account; guard/contracts/test_aws_stack.py runs what needs none",
    "docs/outcomes.md": "guard/stories/test_experiment.py shows experiments",
    "docs/own-data.md": "guard/tables/test_shapes.py runs it on files of many shapes",
    "docs/local-personalize.md": "guard/contracts/test_aws_command.py sends a page's requests",
    "docs/data-kept.md": "cli/test_forget.py erases; the others change rights of the system",
    "docs/plug-in.md": "pipeline/test_team_project.py types them in a fresh environment",
}
TESTS = REPOSITORY / "batchrec_dagster_tests"
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
EXTRA = re.compile(r"\bbatchrec-dagster\[([a-z,]+)\]")
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"].keys()
# Code in sentences that looks like a pipeline's setting but is not.
NO_SETTINGS = {
    "storage: true": "config of the step that tears down",
}
# Errors that a wrong example raises.
WRONG = (
    *(AssertionError, AttributeError, ImportError, KeyError, ValueError),
    *(dg.DagsterInvalidConfigError, duckdb.Error),
)
# Commands that change nothing, so that tests may run them on any project.
READ_ONLY = re.compile(r"batchrec (?:check|list|show|forget \d+ --dry-run)\b")
PLACEHOLDER = re.compile(r" [A-Z]{2,}\b| --experiment\b")


def list_all_blocks() -> Iterator[CodeBlock]:
    """Yield the examples of all pages, except the commands' output in `text` blocks."""
    for page in PAGES:
        yield from (block for block in read_code_blocks(page) if block.language != "text")


def read_mentions(text: str) -> list[str]:
    """Return the distinct pieces of code in the page's sentences and tables."""
    prose = BLOCK.sub("", text)
    return [code.replace(r"\|", "|") for code in dict.fromkeys(CODE.findall(prose))]


def check_example(block: CodeBlock, folder: Path) -> None:
    """Check the block by the rule of its language.

    Raises AssertionError that names the language if it has no rule.
    """
    assert block.language in RULES, f"{block}: of which language is this?\n{block.text}"
    RULES[block.language](block, folder)


@pytest.mark.parametrize("block", [*list_all_blocks()], ids=str)
def test_the_example_is_right(block: CodeBlock, tmp_path: Path) -> None:
    check_example(block, tmp_path)
    if block.language == "sh":
        assert block.page in TYPED, "which test types this?"
    if block.language == "bash":
        assert block.page in BASH, "which test runs this, or why does none?"


def test_the_tests_that_run_commands_of_pages_are_there() -> None:
    named_tests = re.findall(r"[\w/]+\.py", " ".join(BASH.values()))
    assert len(named_tests) > 5
    assert [name for name in named_tests if not (TESTS / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_names_in_sentences_exist(page: str, tmp_path: Path) -> None:
    check_mentions((REPOSITORY / page).read_text(), tmp_path)


def check_mentions(text: str, folder: Path) -> None:
    """Require that the commands, settings and environment variables in sentences exist."""
    variables = {variable.name for variable in VARIABLES}
    for code in read_mentions(text):
        if not check_mention(code, folder) and code not in NO_SETTINGS:
            check_setting(code)
        for names in EXTRA.findall(code):
            assert {*names.split(",")} <= EXTRAS, code
        for variable in re.findall(r"^BATCHREC_[A-Z_]+$", code):
            assert variable in variables or variable.startswith("BATCHREC_LOCAL_"), variable


def test_the_examples_of_the_reference_are_right(tmp_path: Path) -> None:
    """The reference is generated from the code; only the examples of blocks are written by hand."""
    spec = spec_from_file_location("reference", REPOSITORY / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = module_from_spec(spec)
    spec.loader.exec_module(reference)
    pages = reference.build_pages()
    languages = Counter(
        block.language for name in pages for block in parse_code_blocks(name, pages[name])
    )
    assert languages["yaml"] == len(reference.EXAMPLES) + 1
    assert languages["text"] == len(main.commands)
    for name, text in pages.items():
        for block in parse_code_blocks(name, text):
            # The remaining blocks are click's help texts.
            if block.language == "yaml":
                check_example(block, tmp_path)
    for variable in VARIABLES:
        assert f"| `{variable.name}`" in pages["environment.md"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("", "batchrec run shop"),
        ("toml", "name = 'shop'"),
        ("bash", "batchrec run shop --trian"),
        ("bash", "batchrec runs shop"),
        ("bash", "make everything"),
        ("bash", "if true"),
        ("bash", "aws personalize create-solutions --name shop"),
        ("bash", "aws personalize create-solution --nam shop"),
        ("bash", "docker compose exec web batchrec check"),
        ("bash", "cp deploy/no.example .env"),
        ("bash", 'echo "$(batchrec lists)"'),
        ("csv", "order_id,customer\n"),
        ("json", '{"user_id": "7", "items": [{"item_id": "1", "rank": 1}, …]'),
        ("mermaid", 'flowchart TD\n  a["cellar/<br>wine"]'),
        ("python", "import batchrec_dagster.no_such_module"),
        ("sql", "SELEC 1"),
        ("yaml", "gate: {max_shrinks: 0.2}"),
        (
            "yaml",
            "recommendations:\n  rules:\n    # only: ITEMS.COLOUR > 0\n    max_per: {CATEGORY: 3}",
        ),
        ("yaml", "ratings: {source: orders.csv, query: SELEC 1}"),
        ("yaml", "train: perhaps"),
        ("yaml", "compute_logs: {module: a, klass: b}"),
    ],
)
def test_a_wrong_example_is_noticed(language: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(WRONG):
        check_example(CodeBlock(README, 1, language, text), tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "batchrec show --pipelines shop",
        "gate: {max_shrinks: 0.2}",
        "max_per: {COLOUR: 3}",
        "retention.edition",
        "duplicates: forget",
        "pip install 'batchrec-dagster[duck]'",
    ],
)
def test_a_wrong_name_in_a_sentence_is_noticed(code: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_mentions(f"Write `{code}`.", tmp_path)


def test_no_block_of_a_page_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrec_dagster_tests.repository.typed_pages.REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text("```sh\nls\n```\n\n  ```yaml\n  a: 1\n  ```\n")
    assert [(str(block), block.text) for block in read_code_blocks("page.md")] == [
        ("page.md:1", "ls\n"),
        ("page.md:5", "a: 1\n"),
    ]
    (tmp_path / "page.md").write_text("```sh\nls\n````\n")
    with pytest.raises(AssertionError, match=r"page\.md"):
        read_code_blocks("page.md")


@pytest.mark.slow
def test_commands_that_change_nothing_run(
    project: Project, first_run: FirstRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_run.copy_to(project)
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    texts = [block.text for block in list_all_blocks() if block.language == "bash"]
    for page in PAGES:
        mentions = read_mentions((REPOSITORY / page).read_text())
        texts += [code for code in mentions if READ_ONLY.match(code)]
    commands = {
        " ".join(words) for text in texts for words in split_commands(text) if len(words) > 1
    }
    commands = {
        command
        for command in commands
        if READ_ONLY.match(command) and not PLACEHOLDER.search(command)
    }
    assert len(commands) > 5
    for command in sorted(commands):
        # The project's users are 1 to 60.
        arguments = ["7" if word.isdigit() else word for word in command.split()[1:]]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{command}: {result.output}"
