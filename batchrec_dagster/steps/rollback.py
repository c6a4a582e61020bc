"""Going back to lists that were published before, and what the next refresh has to know of it.

Lists that were rolled back are not published again by themselves, though the next refresh may find
data and settings as they were: a record remembers how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from batchrec_dagster.steps.quality_gate import NDCG
from batchrec_dagster.storage.paths import Places, read_record, write_record
from batchrec_dagster.storage.published_table import Edition, PublishedTable
from batchrec_dagster.storage.resource import StorageResource

PREVIOUS = "previous"


def run_config(pipeline: str, to: str) -> dict[str, Any]:
    """What tells a run of the job how far to go back: an edition's number, or PREVIOUS."""
    return {"ops": {f"{pipeline}__recommendations": {"config": {"roll_back_to": to}}}}


def published_table(storage: StorageResource, places: Places) -> PublishedTable:
    """The pipeline's table of recommendations."""
    return PublishedTable(storage.store, storage.uri(places.recommendations))


def edition_summary(edition: Edition) -> str:
    """An edition in a line: when it was made, how good it is, for how many users."""
    about = edition.about
    facts = [f"edition {edition.number}"]
    if "made_at" in about:
        facts.append(f"made {about['made_at'][:16].replace('T', ' ')} UTC")
    if NDCG in about.get("metrics", {}):
        facts.append(f"NDCG@25 {about['metrics'][NDCG]:.4f}")
    if "users" in about:
        facts.append(f"{about['users']:,} users")
    return ", ".join(facts)


def was_rolled_back(storage: StorageResource, places: Places, made_by: Sequence[str]) -> bool:
    """Whether lists made by one of these were rolled back."""
    return not {*rolled_back_keys(storage, places)}.isdisjoint(made_by)


def publish_again(storage: StorageResource, places: Places, made_by: Sequence[str]) -> None:
    """Forget that lists made by one of these were rolled back: someone wants them."""
    before = rolled_back_keys(storage, places)
    after = [key for key in before if key not in made_by]
    if after != before:
        record = {**read_record(storage, _key(places)), "rolled_back": after}
        write_record(storage, _key(places), record)


def roll_back(storage: StorageResource, places: Places, to: str, run: str) -> Edition:
    """The edition that is to be published again: `to` is its number, or PREVIOUS. The one that it
    replaces is remembered as rolled back. A run that is started again goes back no further: `run`
    is the id of the first of them.

    Raises dg.Failure; StorageError.
    """
    table, record = published_table(storage, places), read_record(storage, _key(places))
    current, rolled_back = table.current(), rolled_back_keys(storage, places)
    if (record.get("run"), record.get("to")) == (run, to):
        edition = chosen(table, str(record["edition"]))
    else:
        edition = chosen(table, to, rolled_back)
    made_by = edition.about.get("made_by", [])
    rolled_back = [key for key in rolled_back if key not in made_by]
    if current is not None and current != edition:
        # The model and its settings where these differ, else the users and titles.
        differ = [key for key in current.about.get("made_by", []) if key not in made_by]
        rolled_back += [key for key in differ[:1] if key not in rolled_back]
    remembered = {"rolled_back": rolled_back, "run": run, "to": to, "edition": edition.number}
    write_record(storage, _key(places), remembered)
    return edition


def chosen(table: PublishedTable, to: str, rolled_back: Sequence[str] = ()) -> Edition:
    """The edition of this number; of PREVIOUS the newest that was made before the published one and
    was not rolled back itself. Raises dg.Failure."""
    current, older = table.current(), table.older()
    if to == PREVIOUS:
        before = [
            edition
            for edition in older
            if (current is None or _is_before(edition, current))
            and {*rolled_back}.isdisjoint(edition.about.get("made_by", []))
        ]
        if before:
            return before[0]
        missing = "there are no lists published before these"
    else:
        there = [edition for edition in [current, *older] if edition is not None]
        for edition in there:
            if str(edition.number) == to:
                return edition
        missing = f"there is no edition {to!r}"
    listed = "; ".join(edition_summary(edition) for edition in older) or "nothing"
    raise dg.Failure(f"{missing} to roll back to; kept is: {listed}", allow_retries=False)


def _is_before(edition: Edition, current: Edition) -> bool:
    """Lists that were published twice are no older ones."""
    return edition.number < current.number and edition.version != current.version


def _key(places: Places) -> str:
    return places.record("rollback")


def rolled_back_keys(storage: StorageResource, places: Places) -> list[str]:
    """How the lists that were rolled back were made."""
    return list(read_record(storage, _key(places)).get("rolled_back", []))
