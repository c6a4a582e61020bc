"""The text that `batchrec show` prints, and the summary of a pipeline's newest results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from batchrec_dagster.reporting.lookup import Item, Person
from batchrec_dagster.reporting.people import shortened
from batchrec_dagster.reporting.published import Published
from batchrec_dagster.reporting.terminal import Column, Section, plain, render
from batchrec_dagster.storage.paths import read_record


def text(found: Person | Item | Mapping[str, Any], width: int | None, *, with_runs: bool) -> str:
    """The text for a terminal of this width, or for a pipe (None).

    with_runs: whether a summary includes what Dagster knows about the runs.
    """
    match found:
        case Person():
            return _person(found, width)
        case Item():
            return _item(found, width)
    return _summary(found, with_runs=with_runs)


def _person(found: Person, width: int | None) -> str:
    events = any(had.event is not None for had in found.history)
    history = Section(
        title=f"History: latest {len(found.history):,} of {found.interactions:,} interactions",
        columns=[
            Column("when"),
            *([Column("event")] if events else []),
            *_item_columns(found.titles),
        ],
        rows=[
            [_time(had.time), *([had.event] if events else []), *_named(had, found.titles)]
            for had in found.history
        ],
        note="" if found.history else "none: the list shows what most people like",
    )
    recommended = Section(
        title=f"Recommended: {len(found.recommendations):,} items",
        columns=[
            Column("#", right=True),
            *_item_columns(found.titles),
            Column("because of"),
            Column("both", right=True),
        ],
        rows=[
            [
                got.rank,
                *_named(got, found.titles),
                shortened(got.because_title) or got.because,
                got.users_with_both or None,
            ]
            for got in found.recommendations
        ],
        note="because of: the item in the history whose audience overlaps most; both: people who"
        " liked both. It shows association, not the model's reasoning."
        if found.recommendations
        else "none: this user was not requested, or has already seen every item",
    )
    return render([f"User {found.user} in {found.pipeline}"], [[history, recommended]], width=width)


def _item(found: Item, width: int | None) -> str:
    share = f" ({found.in_lists / found.lists:.1%})" if found.lists else ""
    rank = "" if found.mean_rank is None else f", mean rank {found.mean_rank:.1f}"
    last = "" if found.last is None else f", latest {_time(found.last)}"
    facts = [
        f"in {found.in_lists:,} of {found.lists:,} lists{share}{rank}",
        f"{found.interactions:,} interactions from {found.users:,} users{last}",
    ]
    users = Section(
        title="Users for whom it ranks highest",
        columns=[Column("#", right=True), Column("user")],
        rows=[[user["rank"], user["user_id"]] for user in found.first_users],
        note="" if found.first_users else "nobody",
    )
    neighbours = Section(
        title="Similar items",
        columns=[*_item_columns(found.titles), Column("both", right=True)],
        rows=[[*_named(other, found.titles), other.users_with_both] for other in found.neighbours],
        note="both: people who liked both"
        if found.neighbours
        else "none: its users have no other item",
    )
    title = shortened(found.title)
    heading = f"Item {found.item} in {found.pipeline}" + (f": {title}" if title else "")
    return render([heading, *facts], [[users, neighbours]], width=width)


def _summary(facts: Mapping[str, Any], *, with_runs: bool) -> str:
    lines = [facts["pipeline"], *(f"  {name:<13} {value}" for name, value in _lines(facts))]
    if "example_user" in facts:
        user = facts["example_user"]
        dash = "-- " if user.startswith("-") else ""
        lines.append(f"  {'try':<13} batchrec show {dash}{shlex.quote(user)}")
    if not with_runs:
        lines.append("  To include Dagster's runs, set DAGSTER_HOME to its folder.")
    return "\n".join(map(plain, lines)) + "\n"


def _item_columns(titles: bool) -> list[Column]:
    return [Column("item"), *([Column("title")] if titles else [])]


def _named(found: Any, titles: bool) -> list[str | None]:
    return [found.item, shortened(found.title)] if titles else [found.item]


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


NDCG = "ndcg_at_25"
_PERSONALIZES_NDCG = "normalized_discounted_cumulative_gain_at_25"
# What only Dagster knows: the asset, its metadata key, and the name in the summary.
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


def summary(published: Published, instance: dg.DagsterInstance | None) -> dict[str, Any]:
    """The newest results by name; without an instance, only what the storage knows.

    Raises StorageError.
    """
    storage, places = published.storage, published.places
    facts: dict[str, Any] = {"pipeline": published.pipeline}
    if instance is not None:
        assets = {asset for asset, _, _ in _METADATA}
        found = {asset: _latest(instance, published.pipeline, asset) for asset in assets}
        facts |= {
            name: found[asset][key]
            for asset, key, name in _METADATA
            if found[asset].get(key) is not None
        }
    edition = published.edition
    assert edition is not None
    # An old table does not say what it was made from: assume the newest model.
    newest = read_record(storage, places.record("solution_version"))
    about = edition.about or newest
    facts["earlier_data"] = about.get("data_version") != newest.get("data_version")
    for prefix, metrics in (("", "metrics"), ("popularity_", "popularity_metrics")):
        if _PERSONALIZES_NDCG in (about.get(metrics) or {}):
            facts[prefix + NDCG] = about[metrics][_PERSONALIZES_NDCG]
    rows, users = published.size()
    facts |= {
        "rows": rows,
        "users": users,
        "made": published.made,
        **({"edition": edition.number} if edition.number else {}),
        "table": storage.where(edition.uri),
    }
    report = storage.uri(places.report)
    if storage.store.head(report) is not None:
        facts["report"] = storage.where(report)
    if (example := published.example_user()) is not None:
        facts["example_user"] = example
    return facts


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A label and a text for each line."""
    if facts.keys() >= {name for asset, _, name in _METADATA if asset == "interactions"}:
        yield "ratings", f"{facts['rows_read']:,} rows from {facts.get('source', 'the ratings')}"
        kept = f"{facts['interactions']:,} kept"
        newer = "; the lists use earlier data" if facts.get("earlier_data") else ""
        yield "interactions", f"{kept}, {facts['rows_left_out']:,} dropped{newer}"
        learned = (facts["interactions_users"], facts["interactions_items"])
        yield "users, items", "{:,} and {:,}".format(*learned)
    if "import" in facts:
        yield "import", facts["import"]
    if "training" in facts:
        yield "training", f"{facts['recipe']}: {facts['training']}"
    if NDCG in facts:
        yield "NDCG@25", _compared(facts[NDCG], facts.get(f"popularity_{NDCG}"))
    lists = f"{facts['rows']:,} recommendations for {facts['users']:,} users"
    edition = f" (edition {facts['edition']})" if "edition" in facts else ""
    yield "lists", f"{lists}, made {facts['made'].astimezone():%Y-%m-%d %H:%M}{edition}"
    yield "table", facts["table"]
    if "report" in facts:
        yield "report", facts["report"]
    if "segments" in facts:
        yield "segments", f"{facts['segments']:,}, with {facts['segments_users']:,} users in total"
        yield "table", facts["segments_table"]


def _compared(ndcg: float, popularity: float | None) -> str:
    if popularity is None:
        return f"{ndcg:.4f}"
    ratio = f" ({ndcg / popularity:.2f} times)" if popularity else ""
    return f"{ndcg:.4f}, compared with {popularity:.4f} for the most popular items{ratio}"


def _latest(instance: dg.DagsterInstance, pipeline: str, asset: str) -> dict[str, Any]:
    """The metadata of the asset's newest materialization; empty without one."""
    event = instance.get_latest_materialization_event(dg.AssetKey([pipeline, asset]))
    if event is None or event.asset_materialization is None:
        return {}
    return {key: value.value for key, value in event.asset_materialization.metadata.items()}
