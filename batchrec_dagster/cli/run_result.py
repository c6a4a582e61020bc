"""What `batchrec run` says of a run that succeeded, and what can be done next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchrec_dagster.cli.declared_pipelines import read_declared_pipelines
from batchrec_dagster.cli.project import find_project, load_storage
from batchrec_dagster.cli.terminal import format_program, get_terminal_width

if TYPE_CHECKING:
    import dagster as dg

    from batchrec_dagster.reporting.run_stages import RunStages


# A command that is longer than the shortest by more letters does not move the comments of all.
MOST_INDENTATION = 40


def describe_result(name: str, run: dg.DagsterRun, stages: RunStages, duration: str) -> list[str]:
    """Lines about what the run has published, and the commands that show more of it."""
    from batchrec_dagster.reporting.messages import format_labelled
    from batchrec_dagster.reporting.published import PublishedResults, list_published
    from batchrec_dagster.reporting.summary import (
        describe_run_result,
        describe_similar_items,
        format_show_arguments,
    )

    storage = load_storage()
    declared = read_declared_pipelines(find_project()).get(name)
    if declared is not None:
        addresses = declared.addresses_of_users_lists
    else:
        # A pipeline that Python makes is declared in no file.
        addresses = list_published(storage, name)
    all_published = [PublishedResults(storage, address) for address in addresses]
    lines = []
    for published in all_published:
        lines += ["", *describe_run_result(published, run.run_id, duration)]
    lines += describe_similar_items(all_published[0], run.run_id) if all_published else []
    width = get_terminal_width()
    lines += [format_labelled(f"  {'warning':<9} ", warning, width) for warning in stages.warnings]
    user = next((results.find_example_user() for results in all_published if results.edition), None)
    commands = {
        "open": "the report, in a browser",
        f"show --pipeline {name}": "the data, the metrics, the table",
    }
    if user is not None:
        commands[format_show_arguments(user)] = "a user's history and list"
    commands["ui"] = "this run in Dagster"
    batchrec = format_program()
    full_commands = {f"{batchrec} {command}": comment for command, comment in commands.items()}
    return [*lines, "", *align_comments(full_commands)]


def align_comments(commands: Mapping[str, str]) -> list[str]:
    """A line for each command, with its comment; the comments are below each other.

    A command that is very long, as with a long user id, moves its own comment only.
    """
    longest = min(map(len, commands)) + MOST_INDENTATION
    width = max(len(command) for command in commands if len(command) <= longest)
    return [f"{command:<{width}}  # {comment}" for command, comment in commands.items()]
