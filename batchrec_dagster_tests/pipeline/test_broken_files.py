"""A pipeline whose YAML is broken keeps the project from loading, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster_tests.guard.builders import (
    copied_project,
    declaration,
    definitions,
    module_project,
    write_ratings,
)

BROKEN_FILES = {
    "bad_value": ("attributes: {name: x, ratings: {source: 'ftp://x/y'}}", "https://"),
    "not-yaml": ("attributes: {name: x, ratings: [", "line 3: this is not YAML"),
    "no_env": (
        "attributes: {name: x, ratings: {source: '{{ env.NOT_SET }}'}}",
        "line 2: ratings.source: its template has no value",
    ),
    "group/wrong_type": ("type: Pipeline", "line 1: type: Pipeline does not exist"),
    "group/empty": (None, "the file is empty"),
    "repeated": (
        "attributes:\n  name: x\n  ratings:\n    source: r.csv\n    source: s.csv",
        "line 6: source is set in line 5 too: keep one of them",
    ),
    "repeated_in_line": (
        "attributes: {name: x, ratings: {source: r.csv, source: s.csv}}",
        "line 2: source is set twice: keep one of them",
    ),
    "not_text": ("attributes: {name: x, ratings: {source: caf\xe9}}", "line 2: this is not UTF-8"),
    "control": ("attributes: {name: '\x01'}", "line 2: this is not YAML, because of the control"),
    "deep": (f"attributes: {'[' * 3000}", "line 1: this is nested too deeply"),
    "flat": ("name: x", "line 2: name: there is no such setting; those of a pipeline go under"),
    "no_type": ("attributes: {name: x}  # type: none", "line 1: type: this must be set"),
    "list": ("- type: x", "line 1: attributes: write its settings"),
    "twice_1": ("attributes: {name: twice, ratings: {source: r.csv}}", "twice is also the name"),
    "twice_2": ("attributes: {name: twice, ratings: {source: r.csv}}", "twice is also the name"),
    "sink_1": (
        "attributes: {name: a, ratings: {source: r.csv}, sinks: {dynamodb: {table: lists}}}",
        "a and b write to the same place, sinks.dynamodb.table: lists",
    ),
    "sink_2": (
        "attributes: {name: b, ratings: {source: r.csv}, sinks: {dynamodb: {table: lists}}}",
        "a and b write to the same place, sinks.dynamodb.table: lists",
    ),
}


# The files that are broken together, and only together.
PAIRS = (("twice_1", "twice_2"), ("sink_1", "sink_2"))
BROKEN_TOGETHER = [
    *PAIRS,
    *((name,) for name in BROKEN_FILES if not any(name in pair for pair in PAIRS)),
]


@pytest.mark.parametrize("names", BROKEN_TOGETHER, ids=lambda names: names[0])
def test_the_message_names_file_and_line(tmp_path: Path, names: tuple[str, ...]) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "ratings.csv"))
    for name in names:
        text, _ = BROKEN_FILES[name]
        file = project.package / "defs" / name / "defs.yaml"
        file.parent.mkdir(parents=True)
        head = "" if text is None or "type:" in text else f"type: {COMPONENT_TYPE}\n"
        file.write_bytes(f"{head}{text or '# later'}\n".encode("latin-1"))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    lines = str(error.value).splitlines()
    for name in names:
        file = project.package / "defs" / name / "defs.yaml"
        assert any(
            line.startswith(f"{file}, line ") and BROKEN_FILES[name][1] in line for line in lines
        ), lines


@pytest.mark.slow
def test_every_command_says_which_file_is_broken(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    module = ("-m", "batchrec_dagster.definitions")
    job = ("dagster", "job", "execute", *module, "-j", "shop_refresh")
    run_process = project.run(*job)
    assert run_process.returncode == 0, run_process.stderr[-3000:]
    file = project.declare(declaration("later", "ftp://x/y"))
    file.write_text(f"{file.read_text()}  batch_users: {{active_since: 2026-02-30}}\n")
    # Not the script: it would import the package that this copies.
    batchrec = ("python", "-c", "from batchrec_dagster.cli import main; main()")
    for command in (
        ("dagster", "definitions", "validate", *module),
        job,
        (*batchrec, "check"),
    ):
        check_process = project.run(*command)
        assert check_process.returncode == 1
        assert (
            f"{file}, line 5: ratings.source: ftp://" in check_process.stdout + check_process.stderr
        )
    for subcommand in ("show", "list"):
        process = project.run(*batchrec, subcommand)
        assert process.returncode == 0
        assert "shop" in process.stdout
        assert (
            f"nothing is refreshed until it is fixed:\n  {file}, line 5: ratings.source: "
            in process.stderr
        )
