"""The text that `batchrec show` prints, and the summary of a pipeline's newest results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

import dagster as dg

from batchrec_dagster.personalize.evidence import NDCG as PERSONALIZE_NDCG
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.reporting.lookup import ItemDetails, UserDetails
from batchrec_dagster.reporting.people import shorten_title
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.run_stages import format_duration
from batchrec_dagster.reporting.terminal import Column, TerminalTable, escape_invisible, render
from batchrec_dagster.reporting.verdict import Provenance


def format_text(
    results: UserDetails | ItemDetails | Mapping[str, Any], width: int | None, *, with_runs: bool
) -> str:
    """The text about a user, an item or a pipeline.

    `width` is the terminal's; None for a pipe. `with_runs` says whether the summary of a pipeline
    includes what Dagster knows of its runs.
    """
    match results:
        case UserDetails():
            return _format_user(results, width)
        case ItemDetails():
            return _format_item(results, width)
    return _format_summary(results, with_runs=with_runs)


def _format_user(person: UserDetails, width: int | None) -> str:
    events = any(entry.event is not None for entry in person.history)
    history = TerminalTable(
        title=f"History: latest {len(person.history):,} of {person.interactions:,} interactions",
        columns=[
            Column("when (UTC)"),
            *([Column("event")] if events else []),
            *_make_item_columns(person.titles),
        ],
        rows=[
            [
                _format_time(entry.time),
                *([entry.event] if events else []),
                *_make_item_cells(entry, person.titles),
            ]
            for entry in person.history
        ],
        note="" if person.history else "none: the list shows what most people like",
    )
    padding = ", ".join(f"#{entry.rank}" for entry in person.recommendations if entry.padding)
    recommendations = TerminalTable(
        title=f"Recommended: {len(person.recommendations):,} items",
        columns=[
            Column("#", right=True),
            *_make_item_columns(person.titles),
            Column("because of"),
            Column("both", right=True),
        ],
        rows=[
            [
                entry.rank,
                *_make_item_cells(entry, person.titles),
                shorten_title(entry.because_title) or entry.because,
                entry.users_with_both or None,
            ]
            for entry in person.recommendations
        ],
        note="because of: the item in the history whose audience overlaps most; both: people who"
        " liked both. It shows association, not the model's reasoning."
        + (f" Popular items that Personalize added, without a score: {padding}." if padding else "")
        if person.recommendations
        else "none: this user was not requested, is in an experiment's control, or has already seen"
        " every item",
    )
    return render(
        [f"User {person.user} in {person.pipeline}"], [[history, recommendations]], width=width
    )


def _format_item(item: ItemDetails, width: int | None) -> str:
    share = f" ({item.in_lists / item.lists:.1%})" if item.lists else ""
    rank = "" if item.mean_rank is None else f", mean rank {item.mean_rank:.1f}"
    last = "" if item.last is None else f", latest {_format_time(item.last)}"
    facts = [
        f"in {item.in_lists:,} of {item.lists:,} lists{share}{rank}",
        f"{item.interactions:,} interactions from {item.users:,} users{last}",
    ]
    users = TerminalTable(
        title="Users for whom it ranks highest",
        columns=[Column("#", right=True), Column("user")],
        rows=[[user["rank"], user["user_id"]] for user in item.first_users],
        note="" if item.first_users else "nobody",
    )
    neighbours = TerminalTable(
        title="Similar items",
        columns=[*_make_item_columns(item.titles), Column("both", right=True)],
        rows=[
            [*_make_item_cells(neighbour, item.titles), neighbour.users_with_both]
            for neighbour in item.neighbours
        ],
        note="both: people who liked both"
        if item.neighbours
        else "none: its users have no other item",
    )
    title = shorten_title(item.title)
    heading = f"Item {item.item} in {item.pipeline}" + (f": {title}" if title else "")
    return render([heading, *facts], [[users, neighbours]], width=width)


def _format_summary(facts: Mapping[str, Any], *, with_runs: bool) -> str:
    lines = [
        facts["pipeline"],
        *(f"  {name:<13} {value}" for name, value in _describe_summary(facts)),
    ]
    if "example_user" in facts:
        lines.append(f"  {'try':<13} batchrec {format_show_arguments(facts['example_user'])}")
    if not with_runs:
        lines.append("  To include Dagster's runs, set DAGSTER_HOME to its folder.")
    return "\n".join(map(escape_invisible, lines)) + "\n"


def format_show_arguments(user: str) -> str:
    """The arguments with which batchrec shows this user."""
    return f"show {'-- ' if user.startswith('-') else ''}{shlex.quote(user)}"


def _make_item_columns(titles: bool) -> list[Column]:
    return [Column("item"), *([Column("title")] if titles else [])]


def _make_item_cells(row: Any, titles: bool) -> list[str | None]:
    return [row.item, shorten_title(row.title)] if titles else [row.item]


def _format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


NDCG = "ndcg_at_25"
# What only Dagster knows. A row has the asset, the key of its metadata, and the name in the summary.
_METADATA = (
    ("raw_ratings", "source", "source"),
    ("interactions", "rows_read", "rows_read"),
    ("interactions", "dagster/row_count", "interactions"),
    ("interactions", "rows_left_out", "rows_left_out"),
    ("interactions", "users", "interactions_users"),
    ("interactions", "items", "interactions_items"),
    ("personalize_dataset", "outcome", "import"),
    ("solution_version", "recipe", "recipe"),
    ("solution_version", "outcome", "training"),
    ("user_segments", "segments", "segments"),
    ("user_segments", "users", "segments_users"),
    ("user_segments", "table", "segments_table"),
)


def summarize(published: PublishedResults, instance: dg.DagsterInstance | None) -> dict[str, Any]:
    """Facts about the newest results, by name.

    If `instance` is None, only what the storage knows is there. Raises StorageError.
    """
    storage, files = published.storage, published.files
    facts: dict[str, Any] = {"pipeline": published.pipeline}
    if instance is not None:
        assets = {asset for asset, _, _ in _METADATA}
        about = published.edition.about if published.edition else {}
        prefix = about.get("key_prefix", [published.pipeline])
        metadata = {
            asset: _read_latest_metadata(instance, dg.AssetKey([*prefix, asset]))
            for asset in assets
        }
        facts |= {
            name: metadata[asset][key]
            for asset, key, name in _METADATA
            if metadata[asset].get(key) is not None
        }
    edition = published.edition
    assert edition is not None
    # An old table does not say which model made it, so assume the newest.
    newest = files.record("solution_version")
    about = edition.about or newest
    facts["earlier_data"] = about.get("data_version") != newest.get("data_version")
    for prefix, metrics in (("", "metrics"), ("popularity_", "popularity_metrics")):
        if PERSONALIZE_NDCG in (about.get(metrics) or {}):
            facts[prefix + NDCG] = about[metrics][PERSONALIZE_NDCG]
    if "engine" in about:
        facts["provenance"] = Provenance.of_edition(about).lines
    if verdict := EditionHistory(files).read_verdict(edition):
        facts["verdict"] = verdict.text
    rows, users = published.count_rows_and_users()
    facts |= {
        "rows": rows,
        "users": users,
        "made": published.publication_time,
        **({"edition": edition.number} if edition.number else {}),
        "table": storage.where(edition.uri),
    }
    if (report := published.report) is not None:
        facts["report"] = storage.where(report.uri)
    if (example := published.find_example_user()) is not None:
        facts["example_user"] = example
    return facts


# The result of a run fits into a terminal of this width.
WIDTH = 80


def describe_run_result(published: PublishedResults, run: str, took: str) -> list[str]:
    """What `batchrec run` prints after a run: what was published, or that nothing has changed.

    `run` is the run's id, and `took` its duration in words.
    """
    facts, edition = summarize(published, None), published.edition
    assert edition is not None
    number = f"edition {edition.number}" if edition.number else "a new edition"
    lines = [f"{published.pipeline}: published {number} in {took}"]
    if edition.about.get("run_id") != run:
        made_at = _format_time(facts["made"].astimezone())
        lines = [f"{published.pipeline}: the lists are unchanged ({took}): {number} of {made_at}"]
    if "verdict" in facts:
        indent = "  "
        lines += wrap(
            escape_invisible(facts["verdict"]),
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
        )
    elif NDCG in facts:
        lines.append(f"  NDCG@25   {_format_ndcg(facts[NDCG], facts.get(f'popularity_{NDCG}'))}")
    lines.append(f"  lists     {facts['rows']:,} recommendations for {facts['users']:,} users")
    if "report" in facts:
        lines.append(f"  report    {_shorten_path(facts['report'])}")
    return lines


def _shorten_path(place: str) -> str:
    """The path relative to the working folder, if it is in that folder."""
    path = Path(place)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else place


def summarize_pipeline(published: PublishedResults, instance: dg.DagsterInstance) -> dict[str, Any]:
    """A pipeline's last refresh and its published edition, each None if there is none.

    Raises StorageError.
    """
    overview: dict[str, Any] = {"pipeline": published.pipeline, "last_run": None, "edition": None}
    refreshes = dg.RunsFilter(job_name=f"{published.pipeline}_refresh")
    for record in instance.get_run_records(refreshes, limit=1):
        began = record.start_time or record.create_timestamp.timestamp()
        overview["last_run"] = {
            "run_id": record.dagster_run.run_id,
            "status": record.dagster_run.status.value,
            "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
            "seconds": round(record.end_time - began, 1) if record.end_time else None,
        }
    if published.edition is not None:
        overview["edition"] = {
            "number": published.edition.number,
            "made": published.publication_time.astimezone(UTC).isoformat(timespec="seconds"),
            "users": published.edition.about.get("users"),
        }
    return overview


def format_overview(overviews: Sequence[Mapping[str, Any]], width: int | None) -> str:
    """A table with a line for each pipeline.

    `overviews` are those of `summarize_pipeline`. `width` is the terminal's; None for a pipe.
    """
    columns = [Column("pipeline"), Column("last run"), Column("time", right=True)]
    columns += [Column("edition", right=True), Column("made"), Column("users", right=True)]
    section = TerminalTable("Pipelines", columns, [*map(_make_overview_row, overviews)])
    return render([], [[section]], width=width).lstrip("\n")


def _make_overview_row(overview: Mapping[str, Any]) -> list[object]:
    run, edition = overview["last_run"], overview["edition"]
    row: list[object] = [overview["pipeline"], "never", None, "none", None, None]
    if run is not None:
        status = RUN_STATUS.get(run["status"], run["status"].lower())
        row[1:3] = [f"{status} {_format_local_time(run['began'])}", format_duration(run["seconds"])]
    if edition is not None:
        users = edition["users"]
        row[3:5] = [edition["number"], _format_local_time(edition["made"])]
        row[5] = None if users is None else f"{users:,}"
    return row


RUN_STATUS = {"SUCCESS": "done", "FAILURE": "failed", "STARTED": "running", "CANCELED": "stopped"}


def _format_local_time(iso: str) -> str:
    return _format_time(datetime.fromisoformat(iso).astimezone())


def _describe_summary(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts.keys() >= {name for asset, _, name in _METADATA if asset == "interactions"}:
        yield "ratings", f"{facts['rows_read']:,} rows from {facts.get('source', 'the ratings')}"
        rows_kept = f"{facts['interactions']:,} kept"
        newer = "; the lists use earlier data" if facts.get("earlier_data") else ""
        yield "interactions", f"{rows_kept}, {facts['rows_left_out']:,} dropped{newer}"
        counts = (facts["interactions_users"], facts["interactions_items"])
        yield "users, items", "{:,} and {:,}".format(*counts)
    if "verdict" in facts:
        yield "verdict", facts["verdict"]
    yield from ((label.lower(), text) for label, text in facts.get("provenance", {}).items())
    if "import" in facts:
        yield "import", facts["import"]
    if "training" in facts:
        yield "training", f"{facts['recipe']}: {facts['training']}"
    if NDCG in facts:
        yield "NDCG@25", _format_ndcg(facts[NDCG], facts.get(f"popularity_{NDCG}"))
    lists = f"{facts['rows']:,} recommendations for {facts['users']:,} users"
    edition = f" (edition {facts['edition']})" if "edition" in facts else ""
    yield "lists", f"{lists}, made {facts['made'].astimezone():%Y-%m-%d %H:%M}{edition}"
    yield "table", facts["table"]
    if "report" in facts:
        yield "report", facts["report"]
    if "segments" in facts:
        yield "segments", f"{facts['segments']:,}, with {facts['segments_users']:,} users in total"
        yield "table", facts["segments_table"]


def _format_ndcg(ndcg: float, popularity: float | None) -> str:
    if popularity is None:
        return f"{ndcg:.4f}"
    return f"{ndcg:.4f}, compared with {popularity:.4f} for the most popular items"


def _read_latest_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return {}
    return {key: value.value for key, value in event.asset_materialization.metadata.items()}
