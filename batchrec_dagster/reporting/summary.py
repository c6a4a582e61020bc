"""The newest results of a pipeline: facts by name, and what the commands print of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import dagster as dg
from pydantic import BaseModel

from batchrec_dagster.personalize.evidence import NDCG as PERSONALIZE_NDCG
from batchrec_dagster.personalize.evidence import name_ndcg, read_popular_ndcg
from batchrec_dagster.reporting.insight.verdict import give_verdict
from batchrec_dagster.reporting.messages import format_labelled
from batchrec_dagster.reporting.provenance import Provenance
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.rules import summarize_rules
from batchrec_dagster.reporting.terminal import escape_invisible, format_time
from batchrec_dagster.storage.records import load

NDCG = "ndcg_at_25"
# What only Dagster knows. A row has an asset, a key of its metadata, and the name in the summary.
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


class _NewestModel(BaseModel):
    """What the record of the newest model says about its data."""

    data_version: str


def summarize(published: PublishedResults, instance: dg.DagsterInstance | None) -> dict[str, Any]:
    """Facts about the newest results, by name.

    If `instance` is None, only what the storage knows is there. Raises UserError.
    """
    storage, files = published.storage, published.files
    facts: dict[str, Any] = {"pipeline": published.address}
    pipeline = files.keys.pipeline
    if instance is not None:
        assets = {asset for asset, _, _ in _METADATA}
        metadata = {
            asset: _read_latest_metadata(instance, dg.AssetKey([pipeline, asset]))
            for asset in assets
        }
        facts |= {
            name: metadata[asset][key]
            for asset, key, name in _METADATA
            if metadata[asset].get(key) is not None
        }
    edition = published.require_edition()
    model = load(files.storage.store, files.record_uri("solution_version"), _NewestModel)
    newest_data = None if model is None else model.data_version
    if edition.recipe is None:
        # No model made these lists.
        newest_data = files.interactions_version()
    is_earlier = edition.data_version != newest_data
    if instance is not None and not is_earlier:
        is_earlier = not _is_imported(instance, pipeline)
    facts["earlier_data"] = is_earlier
    if PERSONALIZE_NDCG in edition.metrics:
        facts[NDCG] = edition.metrics[PERSONALIZE_NDCG]
        facts[f"popularity_{NDCG}"] = read_popular_ndcg(edition)
    if edition.success:
        facts["success"] = list(edition.success)
    if edition.engine is not None:
        facts["provenance"] = Provenance.of_edition(edition).lines
    facts["verdict"] = str(give_verdict(files.editions.record().list_findings(edition)))
    rows, users = published.count_rows_and_users()
    facts |= {
        "rows": rows,
        "users": users,
        "made": published.publication_time,
        **({"edition": edition.number} if edition.number else {}),
        "table": storage.where(edition.uri),
    }
    if edition.rules:
        facts["rules"] = summarize_rules(edition.rules, edition.filled)
    publication = published.read_publication()
    if publication is not None:
        facts |= {"live_since": publication.time, "live_because": publication.because}
        facts["live"] = publication.description
    report = published.report
    if report is not None:
        facts["report"] = storage.where(report.uri)
    example_user = published.find_example_user()
    if example_user is not None:
        facts["example_user"] = example_user
    return facts


# The result of a run fits into a terminal of this width.
WIDTH = 80


def describe_run_result(published: PublishedResults, run: str, took: str) -> list[str]:
    """What `batchrec run` prints after a run: what was published, or that nothing has changed.

    `run` is the run's id, and `took` its duration in words.
    """
    edition = published.edition
    if edition is None:
        return [f"{published.address}: nothing is published yet"]
    facts = summarize(published, None)
    number = f"edition {edition.number}" if edition.number else "a new edition"
    if edition.run == run:
        lines = [f"{published.address}: published {number} in {took}"]
    else:
        made_at = format_time(facts["made"].astimezone())
        lines = [f"{published.address}: the lists are unchanged ({took}): {number} of {made_at}"]
    if "verdict" in facts:
        indent = "  "
        lines += wrap(
            escape_invisible(facts["verdict"]),
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
        )
    elif NDCG in facts:
        ndcg = _format_ndcg(facts[NDCG], facts.get(f"popularity_{NDCG}"))
        lines.append(f"  {name_ndcg(facts.get('success', ())):9} {ndcg}")
    lines.append(f"  lists     {facts['rows']:,} recommendations for {facts['users']:,} users")
    if "rules" in facts:
        label, indent = "  rules     ", " " * 12
        lines += wrap(facts["rules"], WIDTH, initial_indent=label, subsequent_indent=indent)
    if "report" in facts:
        lines.append(f"  report    {_shorten_path(facts['report'])}")
    return lines


def describe_similar_items(published: PublishedResults, run: str) -> list[str]:
    """What `batchrec run` prints of the lists of similar items; nothing if there are none.

    published: any of the results of the pipeline.
    run: the run's id.
    """
    results = published.similar_items
    if results is None or results.edition is None:
        return []
    edition = results.edition
    state = "published" if edition.run == run else "unchanged:"
    counts = edition.counts
    return [
        "",
        f"{results.address}: {state} edition {edition.number}",
        f"  lists     {counts.rows:,} similar items of {counts.subjects:,} items",
    ]


def _shorten_path(place: str) -> str:
    """The path relative to the working folder, if it is in that folder."""
    path = Path(place)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else place


def _describe_summary(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The lines of the summary, each with its label."""
    if facts.keys() >= {name for asset, _, name in _METADATA if asset == "interactions"}:
        yield "ratings", f"{facts['rows_read']:,} rows from {facts.get('source', 'the ratings')}"
        rows_kept = f"{facts['interactions']:,} kept"
        newer = "; the lists use earlier data" if facts.get("earlier_data") else ""
        yield "interactions", f"{rows_kept}, {facts['rows_left_out']:,} dropped{newer}"
        users, items = facts["interactions_users"], facts["interactions_items"]
        yield "users, items", f"{users:,} and {items:,}"
    if "verdict" in facts:
        yield "verdict", facts["verdict"]
    yield from ((label.lower(), text) for label, text in facts.get("provenance", {}).items())
    if "import" in facts:
        yield "import", facts["import"]
    if "training" in facts:
        yield "training", f"{facts['recipe']}: {facts['training']}"
    if NDCG in facts:
        yield (
            name_ndcg(facts.get("success", ())),
            _format_ndcg(facts[NDCG], facts.get(f"popularity_{NDCG}")),
        )
    lists = f"{facts['rows']:,} recommendations for {facts['users']:,} users"
    edition = f" (edition {facts['edition']})" if "edition" in facts else ""
    yield "lists", f"{lists}, made {format_time(facts['made'].astimezone())}{edition}"
    if "rules" in facts:
        yield "rules", facts["rules"]
    # Lists that are published for the first time are live since they were made.
    if facts.get("live_because", "published") != "published":
        yield "live", facts["live"]
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


def _is_imported(instance: dg.DagsterInstance, pipeline: str) -> bool:
    """Whether the newest interactions are those that were imported last.

    They are not if the run that prepared them failed before their import. True if Dagster does not
    know.
    """
    interactions = dg.AssetKey([pipeline, "interactions"])
    dataset = dg.AssetKey([pipeline, "personalize_dataset"])
    version = _read_latest_tags(instance, interactions).get("dagster/data_version")
    input_tag = f"dagster/input_data_version/{interactions.to_user_string()}"
    imported_version = _read_latest_tags(instance, dataset).get(input_tag)
    return None in (version, imported_version) or version == imported_version


def _read_latest_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, str]:
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return {}
    return event.asset_materialization.tags or {}


def format_summary(facts: Mapping[str, Any], width: int | None, *, with_runs: bool) -> str:
    """The text about a pipeline's newest results.

    facts: those of `summarize`.
    width: the terminal's; None for a pipe, in which each fact is a line.
    with_runs: whether the facts include Dagster's runs. If not, the text says how to include them.
    """
    lines = [escape_invisible(facts["pipeline"])]
    for name, value in _describe_summary(facts):
        if width is not None and name in ("table", "report"):
            value = _shorten_path(value)
        lines.append(format_labelled(f"  {name:<13} ", escape_invisible(value), width))
    if "example_user" in facts:
        command = f"batchrec {format_show_arguments(facts['example_user'])}"
        lines.append(f"  {'try':<13} {escape_invisible(command)}")
    if not with_runs:
        lines.append("  To include Dagster's runs, set DAGSTER_HOME to its folder.")
    return "\n".join(lines) + "\n"


def format_show_arguments(user: str) -> str:
    """The arguments with which batchrec shows this user."""
    return f"show {'-- ' if user.startswith('-') else ''}{shlex.quote(user)}"
