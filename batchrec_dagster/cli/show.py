"""`batchrec show` and `batchrec diff`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.dagster_home import HistoryError, open_instance_if_any
from batchrec_dagster.cli.declared_pipelines import (
    NO_PIPELINES,
    UnknownNameError,
    expand_names,
    read_declared_pipelines,
    read_pipeline_name,
)
from batchrec_dagster.cli.project import ProjectError, find_project, load_storage
from batchrec_dagster.cli.terminal import get_terminal_width

if TYPE_CHECKING:
    from batchrec_dagster.reporting.history import EditionHistory
    from batchrec_dagster.reporting.published import PublishedResults
    from batchrec_dagster.storage.edition import Edition


@click.command(short_help="Show a user, an item, or the quality of the recommendations.")
@click.argument("user", required=False)
@click.option(
    "--pipeline", metavar="NAME", help="Show only this pipeline, or a list of it: shop/newsletter."
)
@click.option("--item", metavar="ITEM", help="Who gets this item, and similar items.")
@click.option("--experiment", is_flag=True, help="What an experiment shows.")
@click.option("--edition", metavar="NUMBER", type=int, help="What the user got in this edition.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    user: str | None,
    pipeline: str | None,
    item: str | None,
    experiment: bool,
    edition: int | None,
    as_json: bool,
) -> None:
    """Show the newest recommendations.

    For a USER: their history, their recommendations, and the item in the history that best explains
    each. For an item: who gets it, and similar items. For an experiment: its arms compared. For
    none of these: the data, quality and location of the recommendations. Looks in every list of
    every pipeline, unless you name one.

    With --edition: what the USER got then, from which edition and arm, and why. `batchrec
    list --editions` says which edition was live when.

    \b
    Examples:
      batchrec show
      batchrec show 10028
      batchrec show 10028 --edition 12 --pipeline movielens
      batchrec show 10028 --pipeline movielens --json
      batchrec show 10028 --pipeline shop/newsletter
      batchrec show --item 3189
      batchrec show --item "dark wedding"     # by words of the title
      batchrec show --experiment --pipeline movielens
      batchrec show -- -7                     # an id that starts with a dash
    """
    subjects = [user is not None, item is not None, experiment]
    if sum(subjects) > 1:
        raise click.UsageError("give only one of these: a user, --item or --experiment")
    if user is None and edition is not None:
        raise click.UsageError("--edition is about a user: name one")
    from batchrec_dagster.cli.pipelines import warn_of_errors
    from batchrec_dagster.reporting import lookup
    from batchrec_dagster.reporting.summary import summarize

    if user is None and item is None and not experiment:
        warn_of_errors()
    pipelines = find_published(pipeline)
    # What to show of each pipeline. It is None if the pipeline does not have the user or the item.
    answers: list[Any]
    if user is not None and edition is not None:
        answers = _find_past_users(pipelines, user, edition)
    elif user is not None:
        answers = [lookup.find_user(results, user) for results in pipelines]
    elif item is not None:
        answers = _find_items(pipelines, item)
    elif experiment:
        answers = _view_experiments(pipelines)
    else:
        try:
            with open_instance_if_any() as instance:
                answers = [summarize(results, instance) for results in pipelines]
        except HistoryError as error:
            click.echo(f"Shown without the runs: {error.message}", err=True)
            answers = [summarize(results, None) for results in pipelines]
    answers = [answer for answer in answers if answer is not None]
    if not answers:
        kind = "item" if user is None else "user"
        raise _make_not_found_error(pipelines, kind, user or item or "")
    if as_json:
        records = [answer if isinstance(answer, dict) else _to_record(answer) for answer in answers]
        print_safely(_format_json(records))
        return
    for number, answer in enumerate(answers):
        separator = "\n" if number else ""
        print_safely(separator + _format_text(answer))


def _find_items(pipelines: list[PublishedResults], item: str) -> list[Any]:
    """What each pipeline and list knows of the item of this id.

    If none has it, this is about the item with this text in its title; or, of a pipeline that has
    several, about which these are.
    """
    from batchrec_dagster.reporting.lookup import find_item, find_items_by_title

    answers: list[Any] = [find_item(results, item) for results in pipelines]
    if any(answer is not None for answer in answers):
        return answers
    answers = []
    # The lists of a pipeline have the same titles.
    for _, group in groupby(pipelines, lambda results: read_pipeline_name(results.address)):
        lists = [*group]
        matches = find_items_by_title(lists[0], item)
        if matches is not None and matches.total == 1:
            answers += [find_item(results, matches.items[0].item) for results in lists]
        else:
            answers.append(matches)
    return answers


def _find_past_users(pipelines: list[PublishedResults], user: str, edition: int) -> list[Any]:
    """What the user got in the edition of this number, of each pipeline that still has it.

    Raises UnknownNameError if no pipeline has the edition.
    """
    from batchrec_dagster.reporting.lookup import find_past_user
    from batchrec_dagster.reporting.past_editions import PastEditions, UnknownEditionError

    answers = []
    reasons = []
    for results in pipelines:
        try:
            past = PastEditions(results.files).find(edition)
        except UnknownEditionError as error:
            reasons.append(str(error))
            continue
        answers.append(find_past_user(results, user, past))
    if not answers:
        raise UnknownNameError("\n".join(reasons))
    for reason in reasons:
        click.echo(reason, err=True)
    return answers


def find_published(pipeline: str | None) -> list[PublishedResults]:
    """The results of all published pipelines and lists.

    pipeline: the name of the only pipeline to return, or the address of the only list; None for
        all.

    Raises UnknownNameError if there is none, and UserError.
    """
    from batchrec_dagster.reporting.published import PublishedResults, list_published

    storage = load_storage()
    names = list_published(storage)
    if not names:
        place = storage.where(storage.uri(""))
        make = NO_PIPELINES if _is_nothing_declared() else "Make them with `batchrec run`"
        raise UnknownNameError(
            f"no recommendations in {place} yet. {make}, or set BATCHREC_STORAGE to where they are"
        )
    selected = names if pipeline is None else expand_names([pipeline], names)
    if pipeline is not None and not set(selected) <= set(names):
        raise UnknownNameError(
            f"no recommendations of {pipeline!r} yet. Published pipelines: {', '.join(names)}"
        )
    return [PublishedResults(storage, name) for name in selected]


def _is_nothing_declared() -> bool:
    """Whether there is a project here, and it declares no pipeline."""
    try:
        return not read_declared_pipelines(find_project())
    except ProjectError:
        return False


def _make_not_found_error(
    pipelines: list[PublishedResults], kind: str, name: str
) -> UnknownNameError:
    """The error for an id that no pipeline has, with the most similar ids.

    kind: what has the id: user or item.
    name: the id.
    """
    from batchrec_dagster.reporting.lookup import find_item, find_similar_ids

    similar_ids: set[str] = set()
    for results in pipelines:
        similar_ids.update(find_similar_ids(results, kind, name))
    hint = f". Nearest: {', '.join(sorted(similar_ids))}" if similar_ids else ""
    if kind == "user" and any(find_item(results, name) for results in pipelines):
        hint = f". It is an item: batchrec show --item {shlex.quote(name)}"
    pipeline_names = " and ".join(results.address for results in pipelines)
    return UnknownNameError(f"no {kind} {name} in {pipeline_names} (ids are case-sensitive){hint}")


def _view_experiments(pipelines: list[PublishedResults]) -> list[Any]:
    """What the experiment of each pipeline shows."""
    from batchrec_dagster.storage.extras import require

    require("report", "batchrec show --experiment")
    from batchrec_dagster.reporting.experiment import ExperimentView
    from batchrec_dagster.steps.experiments import summarize_experiment
    from batchrec_dagster.steps.outcomes import read_sums

    views = []
    for results in pipelines:
        result = summarize_experiment(read_sums(results.files))
        experiment = results.edition.experiment if results.edition else None
        published = experiment["name"] if experiment is not None else None
        views.append(ExperimentView(results.address, published, result))
    return views


def _format_text(answer: Any) -> str:
    from batchrec_dagster.reporting.experiment import ExperimentView, format_experiment
    from batchrec_dagster.reporting.show import format_text

    width = get_terminal_width()
    if isinstance(answer, ExperimentView):
        return format_experiment(answer, width)
    return format_text(answer, width, with_runs=bool(os.environ.get("DAGSTER_HOME")))


def _to_record(answer: Any) -> dict[str, Any]:
    """The fields of the answer, and of all that is in it."""
    from pydantic import TypeAdapter

    record: dict[str, Any] = TypeAdapter(type(answer)).dump_python(answer)
    return record


def _format_json(records: list[dict[str, Any]]) -> str:
    def format_time(value: datetime) -> str:
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    text = json.dumps({"pipelines": records}, indent=2, default=format_time)
    # DEL is the one invisible character that json.dumps does not escape.
    return text.replace("\x7f", "\\u007f")


def print_safely(text: str) -> None:
    """Print the text, with characters that the terminal cannot show as escape sequences."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding))


@click.command(
    short_help="Show what changed between two editions, or what two pipelines differ in."
)
@click.argument("names", metavar="[EDITION|NAME] [EDITION|NAME]", nargs=-1)
@click.option("--pipeline", metavar="NAME", help="Needed if there are several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(names: tuple[str, ...], pipeline: str | None, as_json: bool) -> None:
    """Show what changed from one edition of the recommendations to another.

    Settings, data, metrics, how much of the users' lists is new, and the items that rose and fell
    most. By default the published edition is compared with what readers had before it, which is
    never an edition that was rolled back; one EDITION is compared with the published one.
    `batchrec rollback` lists the editions that are kept.

    With two NAMES, the published lists of two pipelines are compared: the second with the first.

    \b
    Examples:
      batchrec diff                        # since what readers had before
      batchrec diff 12                     # since edition 12
      batchrec diff 12 14 --pipeline shop
      batchrec diff shop other_shop
    """
    if len(names) > 2:
        raise click.UsageError("name two editions or pipelines at most")
    if not all(name.isdecimal() for name in names):
        _compare_pipelines(names, pipeline, as_json=as_json)
        return
    editions = tuple(map(int, names))
    from batchrec_dagster.reporting.changes import format_diff
    from batchrec_dagster.reporting.history import EditionHistory

    pipelines = find_published(pipeline)
    if len(pipelines) > 1:
        listed = ", ".join(results.address for results in pipelines)
        raise click.UsageError(f"name one of these with --pipeline: {listed}")
    (results,) = pipelines
    history = EditionHistory(results.files)
    before, after = _choose_editions(history, editions)
    changes = history.compare(before, after)
    if as_json:
        print_safely(json.dumps({"pipeline": results.address, **asdict(changes)}, indent=2))
        return
    print_safely(format_diff(results.address, changes, get_terminal_width()))


def _compare_pipelines(names: tuple[str, ...], pipeline: str | None, *, as_json: bool) -> None:
    """Print what tells the lists of the second pipeline from those of the first."""
    from batchrec_dagster.reporting.changes import format_comparison
    from batchrec_dagster.reporting.comparison import compare_lists, name_lists
    from batchrec_dagster.storage.layout import ListFiles, ListKeys

    if len(names) != 2 or pipeline is not None or any(name.isdecimal() for name in names):
        raise click.UsageError("name two pipelines, or editions of one: --pipeline NAME 12 14")
    lists = []
    storage = load_storage()
    for name in names:
        files = ListFiles(storage, ListKeys(name))
        edition = files.editions.live()
        if edition is None:
            raise UnknownNameError(
                f"there are no lists of {name}: {storage.where(files.editions.uri)} does not exist"
            )
        lists.append(name_lists(files, edition))
    comparison = compare_lists(*lists)
    if as_json:
        print_safely(json.dumps(asdict(comparison), indent=2))
        return
    print_safely(format_comparison(comparison, get_terminal_width()))


def _choose_editions(history: EditionHistory, numbers: tuple[int, ...]) -> tuple[Edition, Edition]:
    """The older and the newer edition to compare.

    numbers: the editions that the user named, two at most.

    Raises UnknownNameError if one of them is not kept, or if there is only one; and UserError.
    """
    # The newest comes first. find_published lists only pipelines that have one.
    kept_editions = history.files.editions.live_and_older()
    current = kept_editions[0]
    editions = {edition.number: edition for edition in kept_editions}
    for number in numbers:
        if number not in editions:
            numbers_kept = ", ".join(map(str, sorted(editions)))
            raise UnknownNameError(f"edition {number} is not kept. Kept: {numbers_kept}")
    if len(numbers) == 2:
        return editions[numbers[0]], editions[numbers[1]]
    before = editions[numbers[0]] if numbers else history.find_baseline(current)
    if before is None and len(editions) > 1:
        numbers_kept = ", ".join(
            str(number) for number in sorted(editions) if number != current.number
        )
        raise UnknownNameError(
            f"what readers had before edition {current.number} is not kept. Name the edition to"
            f" compare it with: {numbers_kept}"
        )
    if before is None:
        raise UnknownNameError(
            f"edition {current.number} is the only one, so there is nothing to compare it with"
        )
    return before, current
