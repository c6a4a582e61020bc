"""Checks that programs, subcommands, options and files of the documentation's commands exist.

No command is run here, so that no account, network or privilege is needed.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from functools import cache
from pathlib import Path
from unittest.mock import patch

import boto3
import click
import yaml
from botocore import xform_name
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import NEW_PROJECT, REPOSITORY
from batchrec_dagster_tests.repository.typed_pages import CodeBlock

# Words of the shell and programs of the system. bash parses the whole block.
SYSTEM_PROGRAMS = {
    *("cat", "cd", "chgrp", "chmod", "cp", "cut", "echo", "eval", "export", "git", "head", "mkdir"),
    *("apt-get", "newgrp", "printf", "sed", "snap", "systemctl", "tar", "umask", "vi", "whoami"),
    "pip",  # It needs a registry; pipeline/test_team_project.py runs it.
}
# Options of every aws operation, and options of the aws command's custom operations.
OPTIONS_OF_AWS = {"max-items", "output", "query", "region"}
OPTIONS_OF_DEPLOY = {"capabilities", "parameter-overrides", "stack-name", "tags", "template-file"}
PROJECT = """\
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop"
"""
# Components have their own options, which dg learns from the project's environment.
OPTIONS_OF_COMPONENTS = {"--format", "--items", "--ratings", "--users"}

COMMENT = re.compile(r"(?:(?<=\s)|^)#.*$", re.MULTILINE)
SUBSTITUTION = re.compile(r"\$\((.+)\)", re.DOTALL)
MENTION = re.compile(r"(?:\.venv/bin/)?(?:batchrec|dagster|dg|docker|make) ")
ASSIGNMENT = re.compile(r"\w+=")
PATH_OF_REPOSITORY = re.compile(r"(?:\./)?((?:deploy|docs|examples)/[\w./-]+)")
# Files that the commands read, and that must exist.
SOURCE = re.compile(r"FILE|[\w/-]+\.(?:csv|tar|yaml)")


def check_shell(block: CodeBlock, folder: Path) -> None:
    """Require that everything in the block exists.

    folder: an empty folder, which gets the files that the block names.

    Raises AssertionError that names a missing program, option or file.
    """
    bash = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    assert bash.returncode == 0, bash.stderr
    for command in split_commands(block.text):
        check_command(command, folder)


def check_mention(code: str, folder: Path) -> bool:
    """Return whether the code in a sentence is a command, and require that its options exist.

    The command may lack arguments or have placeholders, as the sentence is about the command.
    """
    if not MENTION.match(code):
        return False
    with_values = code.replace(" DAY", " 2026-11-24")
    try:
        for command in split_commands(with_values):
            check_command(command, folder)
    except AssertionError as error:
        if "Missing argument" not in str(error):
            raise
    return True


def split_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command, including commands in pipes and substitutions."""
    plain = COMMENT.sub("", text.replace("\\\n", " "))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace, lexer.commenters = " \t", ""
    lexer.whitespace_split = True
    command: list[str] = []
    is_redirected = False
    for word in lexer:
        if set(word) <= set("<>"):
            is_redirected = True
        elif set(word) <= set(";&|()\n"):
            yield from [command] if command else []
            command = []
        elif is_redirected:
            is_redirected = False
        else:
            command.append(word)
        for inner in SUBSTITUTION.findall(word):
            yield from split_commands(inner)
    yield from [command] if command else []


def check_command(words: Sequence[str], folder: Path) -> None:
    """Require that a command's program, options and files exist."""
    words = [word for word in words if word not in {"{", "}", "…"}]
    while words and ASSIGNMENT.match(words[0]):
        del words[0]
    for path in (match[1] for word in words if (match := PATH_OF_REPOSITORY.fullmatch(word))):
        # Files under deploy/ belong to a project.
        root = NEW_PROJECT if path.startswith("deploy/") else REPOSITORY
        assert (root / path).exists(), f"there is no {path}"
    if not words:
        return
    program, *arguments = words[1:] if words[0] == "sudo" else words
    program = program.removeprefix(".venv/bin/")
    check = CHECKS.get(program)
    if check is not None:
        check(arguments, folder)
    else:
        assert program in SYSTEM_PROGRAMS, f"which program is {program}?"


def _check_batchrec(arguments: list[str], folder: Path) -> None:
    for argument in arguments:
        if SOURCE.fullmatch(argument):
            (folder / argument).parent.mkdir(parents=True, exist_ok=True)
            (folder / argument).touch()
    _parse(main, arguments, folder)


def _check_dg(arguments: list[str], folder: Path) -> None:
    from dagster_dg_cli.cli import create_dg_cli

    if arguments[:2] == ["scaffold", "defs"]:
        assert arguments[2] == "batchrec_dagster.BatchRecommendations"
        options = {word for word in arguments if word.startswith("-")}
        assert options <= OPTIONS_OF_COMPONENTS, options
    else:
        (folder / "pyproject.toml").write_text(PROJECT)
        _parse(create_dg_cli(), arguments, folder)  # type: ignore[no-untyped-call]


def _check_dagster(arguments: list[str], folder: Path) -> None:
    from dagster._cli import cli

    _parse(cli, arguments, folder)


def _parse(command: click.Command, arguments: list[str], folder: Path) -> None:
    """Let the command parse its arguments without running it."""
    with patch.object(click.Command, "invoke", lambda *_: None), chdir(folder):
        result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def _check_make(arguments: list[str], _folder: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for argument in arguments:
        assert argument in targets or ASSIGNMENT.match(argument), f"make has no {argument}"


def _check_docker(arguments: list[str], folder: Path) -> None:
    assert arguments[0] == "compose", arguments
    template = (NEW_PROJECT / "compose.yaml.jinja").read_text()
    services = yaml.safe_load(template.replace("{{ module }}", "shop"))["services"]
    if arguments[1:2] == ["exec"]:
        inner = [word for word in arguments[2:] if word != "-T"]
        if inner:
            assert inner[0] in services, f"compose.yaml has no {inner[0]}"
            check_command(inner[1:], folder)
    else:
        assert arguments[1:2] in ([], ["up"]), arguments


def _check_sh(arguments: list[str], folder: Path) -> None:
    assert arguments[0] == "-c"
    for command in split_commands(arguments[1]):
        check_command(command, folder)


def _check_python(arguments: list[str], _folder: Path) -> None:
    assert arguments[0] == "-c"
    compile(arguments[1], "-c", "exec")


def _check_aws(arguments: list[str], _folder: Path) -> None:
    """Require an existing aws operation and options, valid JSON, and a policy that allows."""
    service, operation, *values = arguments
    valid_options = OPTIONS_OF_AWS | _list_aws_options(service, operation)
    options = {value.removeprefix("--") for value in values if value.startswith("--")}
    unknown_options = options - valid_options
    assert not unknown_options, f"aws {service} {operation} has no {unknown_options}"
    for document in [value for value in values if value.lstrip().startswith("{\n")]:
        for statement in json.loads(document)["Statement"]:
            assert statement.keys() == {"Effect", "Action", "Resource"}
            assert re.fullmatch(r"\w+:\w+", statement["Action"])
            assert statement["Resource"].startswith("arn:aws:")


@cache
def _list_aws_options(service: str, operation: str) -> set[str]:
    if (service, operation) == ("cloudformation", "deploy"):
        return OPTIONS_OF_DEPLOY
    if (service, operation) == ("s3", "cp"):
        return set()
    model = boto3.Session(region_name="us-east-1")._session.get_service_model(
        service.removesuffix("api")
    )
    names = {xform_name(name, "-"): name for name in model.operation_names}
    assert operation in names, f"aws {service} has no {operation}"
    shape = model.operation_model(names[operation]).input_shape
    return {xform_name(member, "-") for member in shape.members} if shape else set()


CHECKS: dict[str, Callable[[list[str], Path], None]] = {
    "aws": _check_aws,
    "batchrec": _check_batchrec,
    "dagster": _check_dagster,
    "dg": _check_dg,
    "docker": _check_docker,
    "make": _check_make,
    "python": _check_python,
    "sh": _check_sh,
}
