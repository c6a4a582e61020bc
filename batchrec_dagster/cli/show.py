"""`batchrec show` and `batchrec diff`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.dagster_home import HistoryError, instance_if_any
from batchrec_dagster.cli.project import (
    UnknownNameError,
    complete_pipelines,
    storage,
    terminal_width,
)

if TYPE_CHECKING:
    from batchrec_dagster.reporting.history import EditionHistory
    from batchrec_dagster.reporting.published import PublishedResults
    from batchrec_dagster.storage.published_table import Edition


# Of an experiment's default control.
USUAL_SHARE = 0.1


@click.command(short_help="Show a user, an item, or the quality of the recommendations.")
@click.argument("user", required=False)
@click.option(
    "--pipeline", metavar="NAME", help="Show only this pipeline.", shell_complete=complete_pipelines
)
@click.option("--item", metavar="ITEM", help="Who gets this item, and similar items.")
@click.option(
    "--experiment", is_flag=True, help="What an experiment shows, and how many users one needs."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    user: str | None, pipeline: str | None, item: str | None, experiment: bool, as_json: bool
) -> None:
    """Show the newest recommendations.

    For a USER: their history, their recommendations, and the item in the history that best explains
    each. For an item: who gets it, and similar items. For an experiment: its arms compared, and the
    users that the next one needs. For none of these: the data, quality and location of the
    recommendations. Looks in every pipeline, unless you name one.

    \b
    Examples:
      batchrec show
      batchrec show 10028
      batchrec show 10028 --pipeline movielens --json
      batchrec show --item 3189
      batchrec show --experiment --pipeline movielens
      batchrec show -- -7                     # an id that starts with a dash
    """
    if (user is not None) + (item is not None) + experiment > 1:
        raise click.UsageError("give a user, --item or --experiment: one of them")
    from batchrec_dagster.cli.pipelines import warn_of_broken
    from batchrec_dagster.reporting import lookup
    from batchrec_dagster.reporting.summary import summarize

    if user is None and item is None and not experiment:
        warn_of_broken()
    published = published_of(pipeline)
    shown: list[Any]
    if user is not None:
        shown = [lookup.find_user(one, user) for one in published]
    elif item is not None:
        shown = [lookup.find_item(one, item) for one in published]
    elif experiment:
        shown = _experiments(published)
    else:
        try:
            with instance_if_any() as instance:
                shown = [summarize(one, instance) for one in published]
        except HistoryError as error:
            click.echo(f"Shown without the runs: {error.message}", err=True)
            shown = [summarize(one, None) for one in published]
    found = [one for one in shown if one is not None]
    if not found:
        raise _not_found(published, "item" if user is None else "user", user or item or "")
    if as_json:
        print_safely(_json([one if isinstance(one, dict) else asdict(one) for one in found]))
        return
    for number, one in enumerate(found):
        print_safely(("\n" if number else "") + _text(one))


def published_of(pipeline: str | None) -> list[PublishedResults]:
    """The published pipelines, or the one of this name. Raises NotFoundError, StorageError."""
    from batchrec_dagster.reporting.published import PublishedResults, list_published_pipelines

    deployed = storage(pipeline)
    names = list_published_pipelines(deployed)
    if not names:
        raise UnknownNameError(
            f"no recommendations in {deployed.where(deployed.uri(''))} yet. Run a refresh job"
            " first, or set BATCHREC_STORAGE to where they are"
        )
    if pipeline is not None and pipeline not in names:
        raise UnknownNameError(
            f"no recommendations of {pipeline!r} yet. Published pipelines: {', '.join(names)}"
        )
    return [PublishedResults(deployed, name) for name in names if pipeline in (None, name)]


def _not_found(published: list[PublishedResults], what: str, name: str) -> UnknownNameError:
    from batchrec_dagster.reporting.lookup import find_item, find_similar_ids

    where = " and ".join(one.pipeline for one in published)
    near = sorted({near for one in published for near in find_similar_ids(one, what, name)})
    hint = f". Nearest: {', '.join(near)}" if near else ""
    if what == "user" and any(find_item(one, name) for one in published):
        hint = f". It is an item: batchrec show --item {shlex.quote(name)}"
    return UnknownNameError(f"no {what} {name} in {where} (ids are case-sensitive){hint}")


def _experiments(published: list[PublishedResults]) -> list[Any]:
    from batchrec_dagster.storage.extras import require

    require("report", "batchrec show --experiment")
    from batchrec_dagster.outcomes.experiment import plan_experiment, summarize_experiment
    from batchrec_dagster.reporting.experiment import ExperimentView
    from batchrec_dagster.steps.outcomes import read_sums

    views = []
    for one in published:
        sums = read_sums(one.files)
        result = summarize_experiment(sums)
        about = one.edition.about if one.edition else {}
        current = about.get("experiment", {})
        usual = result.control_share if result else USUAL_SHARE
        planned = plan_experiment(sums, current.get("control_share", usual))
        views.append(ExperimentView(one.pipeline, current.get("name"), result, planned))
    return views


def _text(found: Any) -> str:
    from batchrec_dagster.reporting.experiment import ExperimentView, format_experiment
    from batchrec_dagster.reporting.show import format_text

    width = terminal_width()
    if isinstance(found, ExperimentView):
        return format_experiment(found, width)
    return format_text(found, width, with_runs=bool(os.environ.get("DAGSTER_HOME")))


def _json(found: list[dict[str, Any]]) -> str:
    def written(value: object) -> str:
        assert isinstance(value, datetime)
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    # DEL is the one invisible character that json.dumps does not escape.
    return json.dumps({"pipelines": found}, indent=2, default=written).replace("\x7f", "\\u007f")


def print_safely(text: str) -> None:
    """Print it with what the terminal cannot show escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding))


@click.command(short_help="Show what changed between two editions of the recommendations.")
@click.argument("editions", metavar="[EDITION] [EDITION]", nargs=-1, type=int)
@click.option(
    "--pipeline",
    metavar="NAME",
    help="Needed if there are several.",
    shell_complete=complete_pipelines,
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(editions: tuple[int, ...], pipeline: str | None, as_json: bool) -> None:
    """Show what changed from one edition of the recommendations to another.

    Settings, data, metrics, how much of the users' lists is new, and the items that rose and fell
    most. By default the published edition is compared with the one before; one EDITION is compared
    with the published one. `batchrec rollback` lists the editions that are kept.

    \b
    Examples:
      batchrec diff                        # since the edition before
      batchrec diff 12                     # since edition 12
      batchrec diff 12 14 --pipeline shop
    """
    if len(editions) > 2:
        raise click.UsageError("name two editions at most")
    from batchrec_dagster.reporting.changes import format_diff
    from batchrec_dagster.reporting.history import EditionHistory

    published = published_of(pipeline)
    if len(published) > 1:
        names = ", ".join(one.pipeline for one in published)
        raise click.UsageError(f"name one of the pipelines with --pipeline: {names}")
    (one,) = published
    history = EditionHistory(one.files)
    found = history.compare(*_chosen(history, editions))
    if as_json:
        print_safely(json.dumps({"pipeline": one.pipeline, **asdict(found)}, indent=2))
        return
    print_safely(format_diff(one.pipeline, found, terminal_width()))


def _chosen(history: EditionHistory, numbers: tuple[int, ...]) -> tuple[Edition, Edition]:
    """The older and the newer edition to compare. Raises NotFoundError, StorageError."""
    current = history.files.table.current()
    assert current is not None  # published_of has found it
    kept = {one.number: one for one in [current, *history.files.table.older()]}
    for number in numbers:
        if number not in kept:
            listed = ", ".join(map(str, sorted(kept)))
            raise UnknownNameError(f"edition {number} is not kept. Kept: {listed}")
    if len(numbers) == 2:
        return kept[numbers[0]], kept[numbers[1]]
    before = kept[numbers[0]] if numbers else history.find_previous(current)
    if before is None:
        raise UnknownNameError(
            f"edition {current.number} is the only one, so there is nothing to compare it with"
        )
    return before, current
