"""The `batchrec show` command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.pipelines import UnknownNameError, load_pipelines, warn_of_errors
from batchrec_dagster.cli.project import enter_project_if_any
from batchrec_dagster.cli.published_lists import find_lists, read_ended_runs_if_any

if TYPE_CHECKING:
    from batchrec_dagster.editions.files import ListFiles
    from batchrec_dagster.reporting.insight.person import PersonDetails


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

    For a USER: the history, the recommendations, and for each recommendation the item of the
    history that explains it best. For an item: the users who get it, and similar items. For an
    experiment: a comparison of its arms. Otherwise: the verdict, how the last night ended, and
    where the lists are. Looks in every list of every pipeline, unless you name one.

    With --edition: the list that the USER got in that edition, the arm of the experiment, and why
    the items are on it. `batchrec list --editions` says which edition was live when.

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
    """  # noqa: D301
    subjects = [user is not None, item is not None, experiment]
    if sum(subjects) > 1:
        raise click.UsageError("give only one of these: a user, --item or --experiment")
    if user is None and edition is not None:
        raise click.UsageError("--edition is about a user: name one")
    project = enter_project_if_any()
    if not any(subjects) and project is not None:
        warn_of_errors(load_pipelines(project))
    lists = find_lists(project, pipeline)
    if user is not None:
        answers: Sequence[Any] = _find_people(lists, user, edition)
    elif item is not None:
        answers = _find_items(lists, item)
    elif experiment:
        answers = _read_experiments(lists)
    else:
        answers = _read_overviews(lists)
    if as_json:
        _print_json(answers)
    else:
        _print_answers(answers)


def _find_people(lists: Sequence[ListFiles], user: str, edition: int | None) -> list[PersonDetails]:
    """Return what each list knows of the user, now or in an older edition.

    Lists that do not have the edition are named on stderr.

    Raises UnknownNameError if no list has the edition, or if no list knows the user.
    """
    from batchrec_dagster.reporting.insight.person import UnknownEditionError, find_person

    answers, reasons = [], []
    for files in lists:
        try:
            answers.append(find_person(files, user, edition))
        except UnknownEditionError as error:
            reasons.append(str(error))
    if not answers:
        raise UnknownNameError("\n".join(reasons))
    for reason in reasons:
        click.echo(reason, err=True)
    people = [person for person in answers if person is not None]
    if not people:
        raise _make_not_found_error(lists, "user", user)
    return people


def _find_items(lists: Sequence[ListFiles], item: str) -> list[Any]:
    """Return what each list knows of the item with this id.

    If no list has this id, look for the text in titles, pipeline by pipeline: return the item if
    only one title has the text, and the matches if several have it.

    Raises UnknownNameError if no title has the text either.
    """
    from batchrec_dagster.reporting.insight.item import find_item, find_items_by_title

    answers: list[Any] = [find_item(files, item) for files in lists]
    if not any(answers):
        answers = []
        # All lists of a pipeline have the same titles.
        for _, group in groupby(lists, lambda files: files.keys.pipeline):
            lists_of_pipeline = [*group]
            matches = find_items_by_title(lists_of_pipeline[0], item)
            if matches is not None and matches.total == 1:
                item_id = matches.items[0].item
                answers += [find_item(files, item_id) for files in lists_of_pipeline]
            else:
                answers.append(matches)
    answers = [answer for answer in answers if answer is not None]
    if not answers:
        raise _make_not_found_error(lists, "item", item)
    return answers


def _make_not_found_error(lists: Sequence[ListFiles], kind: str, name: str) -> UnknownNameError:
    """Return the error for an id that no list has, with the most similar ids.

    If the id of a user is an item's id, the error says this instead.
    kind: user or item.
    name: the id.
    """
    from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
    from batchrec_dagster.reporting.insight.item import find_item
    from batchrec_dagster.reporting.insight.person import find_similar_ids

    column = USER_ID if kind == "user" else ITEM_ID
    similar_ids = {other for files in lists for other in find_similar_ids(files, column, name)}
    hint = f". Nearest: {', '.join(sorted(similar_ids))}" if similar_ids else ""
    if kind == "user" and any(find_item(files, name) for files in lists):
        hint = f". It is an item: batchrec show --item {shlex.quote(name)}"
    addresses = " and ".join(files.keys.address for files in lists)
    return UnknownNameError(f"no {kind} {name} in {addresses} (ids are case-sensitive){hint}")


def _read_experiments(lists: Sequence[ListFiles]) -> list[Any]:
    from batchrec_dagster.reporting.insight.experiment import read_experiment

    return [read_experiment(files) for files in lists]


def _read_overviews(lists: Sequence[ListFiles]) -> list[Any]:
    from batchrec_dagster.reporting.insight.overview import read_overview

    ended_runs = read_ended_runs_if_any(lists)
    return [read_overview(files, ended_runs.get(files.keys.address, ())) for files in lists]


def _print_answers(answers: Sequence[Any]) -> None:
    """Print the answers, with an empty line between them."""
    from batchrec_dagster.reporting.insight.item import ItemDetails, ItemMatches
    from batchrec_dagster.reporting.insight.overview import ListOverview
    from batchrec_dagster.reporting.insight.person import PersonDetails
    from batchrec_dagster.reporting.views import show as views
    from batchrec_dagster.reporting.views.terminal import Terminal

    terminal = Terminal()
    for number, answer in enumerate(answers):
        if number:
            terminal.print_line()
        match answer:
            case PersonDetails():
                views.print_person(terminal, answer)
            case ItemDetails():
                views.print_item(terminal, answer)
            case ItemMatches():
                views.print_matches(terminal, answer)
            case ListOverview():
                views.print_overview(terminal, answer)
            case _:
                views.print_experiment(terminal, answer.pipeline, [*answer.sentences])


def _print_json(answers: Sequence[Any]) -> None:
    from pydantic import TypeAdapter

    from batchrec_dagster.reporting.insight.overview import ListOverview, describe_overview

    def format_time(value: datetime) -> str:
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    records = [
        describe_overview(answer)
        if isinstance(answer, ListOverview)
        else TypeAdapter(type(answer)).dump_python(answer)
        for answer in answers
    ]
    text = json.dumps({"pipelines": records}, indent=2, default=format_time)
    # DEL is the one invisible character that json.dumps does not escape.
    click.echo(text.replace("\x7f", "\\u007f"))
