"""The rollback, which makes an older edition of a list live again.

Today's rules still apply to the older lists: users who are gone or erased get no list, and blocked
items are on no list. The lists that were live are withdrawn: no run publishes them again unless it
is told to.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.editions.edition import Edition, Withdrawn
from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import EditionsRecord
from batchrec_dagster.editions.without_users import write_without
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.conditions import add_age_column, find_matches
from batchrec_dagster.personalize.filters import parse_condition
from batchrec_dagster.personalize.formats import USER_FIELD
from batchrec_dagster.personalize.schemas import ITEM_ID
from batchrec_dagster.steps.context import RunHistory, StepContext
from batchrec_dagster.steps.data.items import read_attributes
from batchrec_dagster.steps.lists.inputs import read_blocked
from batchrec_dagster.steps.lists.publish import summarize_edition
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import read_erased_users
from batchrec_dagster.storage.lock import Lock
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError

PREVIOUS = "previous"
# If a larger share of an edition's users than this is not among the current users, the current data
# may be bad.
MAX_ABSENT_SHARE = 0.2
# Two groups of parts of `Edition.made_of` identify lists that were rolled back, so that no run
# publishes these lists again. MODEL_PARTS name the model and the settings. SOURCE_PARTS name the
# data and the declaration, from which another model would make similar lists.
MODEL_PARTS = ("model", "settings")
SOURCE_PARTS = ("data", "trained_on", "declaration")
# The part that decides the metrics, but not the lists.
METRICS_PART = "metrics"
NO_IDS = pl.Series([], dtype=pl.String)


@dataclass(frozen=True)
class Restoration:
    """An edition that is live again."""

    edition: Edition
    notes: list[str] = field(default_factory=list)
    """Sentences about users who lost their list, and about rows that break a rule of today."""


def build_rollback_config(op: str, to: str) -> dict[str, Any]:
    """Return the run config of the rollback job.

    op: the name of the op of the asset `recommendations`.
    to: an edition's number, or PREVIOUS.
    """
    return {"ops": {op: {"config": {"roll_back_to": to}}}}


def roll_back(
    step: StepContext,
    published: ListTable,
    to: str,
    runs: RunHistory,
    lock: Lock,
    log: logging.Logger,
) -> Restoration:
    """Make an older edition live again, without users and items that may not be shown today.

    A retry of a run chooses the same edition as the first attempt.

    to: an edition's number, or PREVIOUS.
    runs: the runs that the orchestrator remembers.
    lock: the lock of the list.

    Raises UserError, and DamagedObjectError if the chosen edition's file is damaged.
    """
    files, run = step.files_of(published), step.run.root_id
    editions = files.editions
    live, record = editions.live(), editions.record()
    if live is not None and live.because == "rollback" and live.live_by == run:
        chosen = live
    else:
        chosen = choose_edition(editions, to, find_unfinished(live, runs))
    if live is not None and chosen.is_copy_of(live):
        editions.settle()
        return Restoration(live)
    absent = AbsentUsers.of(files, published.users_key, chosen)
    blocked = read_blocked(step, published)
    if blocked is None:
        blocked = NO_IDS
    facts = {
        "because": "rollback",
        "live_since": datetime.now(UTC),
        "live_by": run,
        "replaced": live.number if live is not None else None,
        "withdrawn": _withdraw(record, live, chosen),
        "rows_against_only": _count_against_only(step, published, chosen, blocked),
    }
    is_kept = ~pl.col(chosen.columns.member_column).is_in(blocked.implode())
    if chosen.columns.names_users:
        is_kept &= ~pl.col("user_id").is_in(absent.to_drop.implode())
    with temporary_folder() as folder:
        path = folder / "lists.parquet"
        write_without(editions, chosen, is_kept, path, **facts)
        edition = editions.publish(path, published.retention.editions, lock)
    log.info(f"published again: {summarize_edition(edition)}")
    notes = [note for note in (absent.description, describe_rows_against_only(edition)) if note]
    for note in notes:
        log.warning(note)
    return Restoration(edition, notes)


def find_unfinished(live: Edition | None, runs: RunHistory) -> Edition | None:
    """Return the live edition if the rollback to it has not succeeded; None otherwise.

    A rollback has not succeeded if neither its run nor a retry of the run has succeeded.
    """
    if live is None or live.because != "rollback" or not runs.is_unfinished(live.live_by):
        return None
    return live


def choose_edition(editions: Editions, to: str, unfinished: Edition | None = None) -> Edition:
    """Return the edition to make live again.

    to: an edition's number, or PREVIOUS. PREVIOUS means the newest edition before the live edition
        that has other lists and was not itself rolled back.
    unfinished: the edition that is live by a rollback that has not succeeded. If it is given,
        PREVIOUS means this edition.

    Raises UserError if there is no such edition.
    """
    live, older, record = editions.live(), editions.older(), editions.record()
    if to == PREVIOUS:
        if unfinished is not None:
            return unfinished
        for edition in older:
            # An edition with the same lists as the live one would change nothing.
            is_earlier = live is None or (
                edition.number < live.number and not _has_same_lists(edition, live)
            )
            if is_earlier and not record.is_withdrawn(edition):
                return edition
        missing = "there is no earlier edition"
    else:
        for known_edition in [live, *older]:
            if known_edition is not None and str(known_edition.number) == to:
                return known_edition
        missing = f"there is no edition {to!r}"
    editions_kept = "; ".join(summarize_edition(edition) for edition in older) or "nothing"
    raise UserError(f"{missing} to roll back to. Kept: {editions_kept}")


def _has_same_lists(edition: Edition, other: Edition) -> bool:
    """Return whether the editions have the same lists, even if their metrics count other events."""
    same_metrics = {METRICS_PART: other.made_of.get(METRICS_PART, "")}
    return edition.version == other.version or {**edition.made_of, **same_metrics} == other.made_of


def _withdraw(
    record: EditionsRecord, live: Edition | None, chosen: Edition
) -> tuple[Withdrawn, ...]:
    """Return the lists that are withdrawn once the chosen edition replaces the live one.

    The lists of the chosen edition are no longer withdrawn, so that they can be published again.
    """
    withdrawn = [
        Withdrawn(
            number=lists.number,
            marks=tuple(mark for mark in lists.marks if not mark.items() <= chosen.made_of.items()),
        )
        for lists in record.withdrawn
        if lists.number != chosen.number
    ]
    if live is not None:
        withdrawn.append(Withdrawn(number=live.number, marks=_choose_marks(live, chosen)))
    return tuple(withdrawn)


def _choose_marks(withdrawn: Edition, chosen: Edition) -> tuple[dict[str, str], ...]:
    """Choose the parts of `made_of` that match the withdrawn edition but not the chosen edition."""
    made_of = withdrawn.made_of

    def differ(parts: tuple[str, ...]) -> bool:
        return any(made_of.get(part) != chosen.made_of.get(part) for part in parts)

    if differ(MODEL_PARTS):
        # If the chosen edition was made from the same data, the data do not identify the withdrawn
        # lists: another model may make better lists from these data.
        parts = [MODEL_PARTS, *([SOURCE_PARTS] if differ(SOURCE_PARTS) else [])]
        return tuple({part: made_of.get(part, "") for part in names} for names in parts)
    whole = tuple(part for part in made_of if part != METRICS_PART)
    return ({part: made_of[part] for part in whole},) if differ(whole) else ()


def _count_against_only(
    step: StepContext, published: ListTable, edition: Edition, blocked: pl.Series
) -> int | None:
    """Count the edition's rows with items that the rule `only` would leave out today.

    None if there is no such rule.

    blocked: the ids of blocked items. Their rows do not count, because the rollback removes them.
    """
    rules = published.settings.applied_rules
    items = read_attributes(step) if rules is not None and rules.only is not None else None
    if rules is None or rules.only is None or items is None:
        return None
    items = add_age_column(items, int(datetime.now(UTC).timestamp()))
    allowed = items.filter(find_matches(parse_condition(rules.only), items))
    item = pl.col(edition.columns.member_column)
    is_against = ~item.is_in(allowed.get_column(ITEM_ID).implode())
    rows = (
        step.files_of(published)
        .editions.read_rows(edition)
        .filter(is_against, ~item.is_in(blocked.implode()))
    )
    return int(rows.select(pl.len()).collect(engine="streaming").item())


def describe_rows_against_only(edition: Edition) -> str:
    """Describe how many rows the rule `only` would leave out today; empty if there are none."""
    if not edition.rows_against_only:
        return ""
    return (
        f"{edition.rows_against_only:,} rows have items that rules.only leaves out today, such as"
        " what is sold out: the next night makes lists without them"
    )


@dataclass(frozen=True)
class AbsentUsers:
    """The users of an edition who are not among the current users.

    Restored lists must not reach people who are gone. But if a large part of the current data is
    missing, a good table must not lose most of its rows. In that case only erased users are
    dropped.
    """

    users: int
    """The number of users in the edition."""
    absent: pl.Series | None
    """The ids of the edition's users who are not among the current users; None if the current users
    are not known."""
    erased: pl.Series
    """The ids of the edition's users who are on the list of erased users."""

    @classmethod
    def of(cls, files: ListFiles, users_key: str, edition: Edition) -> AbsentUsers:
        """Find the absent users of an edition.

        users_key: the storage key of the current users.

        Raises UserError.
        """
        if not edition.columns.names_users:
            return cls(0, NO_IDS, NO_IDS)
        ids = files.editions.read_rows(edition).select(pl.col("user_id").unique())
        users = ids.collect(engine="streaming").to_series()
        current_users = _read_current_users(files, users_key)
        absent = None
        if current_users is not None:
            absent = users.filter(~users.is_in(current_users.implode()))
        return cls(len(users), absent, read_erased_users(files).find(users))

    @property
    def may_be_bad_data(self) -> bool:
        """Whether the current data may be bad, because too many users are absent."""
        return self.absent is not None and len(self.absent) > MAX_ABSENT_SHARE * self.users

    @property
    def to_drop(self) -> pl.Series:
        """The ids of the users to leave out of the restored lists."""
        if self.absent is None or self.may_be_bad_data:
            return self.erased
        return pl.concat([self.absent, self.erased]).unique()

    @property
    def description(self) -> str:
        """A sentence about the dropped users; empty if no user is absent or erased.

        If absent users stay, the sentence says why. If the current users are not known, there is
        always a sentence.
        """
        erased_count = len(self.erased)
        erased = f"{erased_count:,} erased users were dropped"
        if erased_count == 1:
            erased = "1 erased user was dropped"
        if self.absent is None:
            fate = f"only {erased}" if erased_count else "nobody was dropped"
            return f"the list of the current users is missing or damaged, so {fate}"
        if self.may_be_bad_data:
            text = (
                f"{len(self.absent):,} of the {self.users:,} users are not among the current users"
                " (batch_users), which is more than a fifth. They stay, because the current data"
                " may be bad"
            )
            return f"{text}; {erased}" if erased_count else text
        count = len(self.to_drop)
        if not count:
            return ""
        if count == 1:
            return "1 user who is not among the current users (batch_users) was dropped"
        return f"{count:,} users who are not among the current users (batch_users) were dropped"


def _read_current_users(files: ListFiles, users_key: str) -> pl.Series | None:
    """Read the ids of the users who get a list now; None if their file is missing or damaged.

    Raises UserError.
    """
    try:
        content = io.BytesIO(files.storage.store.get(files.uri(users_key)))
        users = pl.read_ndjson(content, schema={USER_FIELD: pl.String})
    except (ObjectNotFoundError, DamagedObjectError, pl.exceptions.PolarsError):
        return None
    return users.get_column(USER_FIELD)
