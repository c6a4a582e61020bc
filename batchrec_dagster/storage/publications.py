"""The record of a pipeline's publications: which edition was live when, and why.

The published table itself says which edition is live. The record says since when and why, what was
live before, and which lists were rolled back. It keeps all publications, also of editions that the
history no longer has.

A publication changes the table first and the record next. If a process is killed in between, the
next reader finds an edition in the table that the record does not end with, and adds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from batchrec_dagster.storage.editions import Edition
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.objects import DamagedObjectError

# The name of the record.
RECORD = "publications"
FIX = (
    "delete it: it is made again from the editions that are kept, but which lists were rolled back"
    " is forgotten"
)
Why = Literal["published", "rolled back", "restored by hand"]


@dataclass(frozen=True)
class EditionFacts:
    """The numbers of an edition that are remembered when its rows are no longer kept.

    A number is None if it is not known.
    """

    ndcg: float | None = None
    """The NDCG@25 of its model."""
    ndcg_low: float | None = None
    """The lower end of the 95% interval of its NDCG@25."""
    ndcg_high: float | None = None
    """The upper end of the interval."""
    popular_ndcg: float | None = None
    """The NDCG@25 of recommending the most popular items."""
    measured_on: str | None = None
    """A fingerprint of the settings of the interactions, and of the events that the NDCG
    counts. NDCGs are compared if it is the same."""
    success: tuple[str, ...] = ()
    """The types of events that the NDCG counts alone; empty if it counts all."""
    users: int | None = None
    """How many users have a list."""
    seconds: float | None = None
    """How long the run took from its start until the lists were live."""
    cost_usd: float | None = None
    """What the run paid."""
    root_run: str | None = None
    """The id of the first of the run and its retries."""


@dataclass(frozen=True)
class Publication:
    """An edition that became live."""

    edition: int
    version: str
    since: datetime | None
    """When it became live; None if that is not known."""
    why: Why
    """`rolled back` is a publication of older lists by a rollback."""
    run: str | None = None
    """The id of the run that published it; None if it is not known."""
    replaced: int | None = None
    """The number of the edition that was live before; None if there was none."""
    data_until: int | None = None
    """The time of the newest interaction that the edition was made from, in epoch seconds."""
    facts: EditionFacts | None = None
    """None if they are not known, or still have to be read from the edition."""

    @property
    def is_first(self) -> bool:
        """Whether the lists were new then."""
        return self.why == "published"

    def is_of(self, edition: Edition) -> bool:
        """Whether it made this edition live."""
        return (self.edition, self.version) == (edition.number, edition.version)

    @property
    def description(self) -> str:
        """Since when the edition is live, and why, such as `since 2026-11-24 03:10 UTC`."""
        text = f"since {self.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.since else "live"
        if self.why == "rolled back":
            text += f", rolled back to from edition {self.replaced}"
        elif self.why == "restored by hand":
            text += f", restored by hand in place of edition {self.replaced}"
        return text


@dataclass(frozen=True)
class WithdrawnLists:
    """Lists that were rolled back, and by what they are recognised if they are made again."""

    edition: int
    version: str
    key: str | None
    """A fingerprint of what made them; see `steps.publishing.Publishing.made_by`."""
    source: str | None = None
    """A fingerprint of their data and settings, see `fingerprint_source`."""

    def is_of(self, edition: Edition) -> bool:
        """Whether these are the lists of this edition, or were made by the same."""
        return (self.edition, self.version) == (edition.number, edition.version) or (
            self.key is not None and self.key in edition.made_by
        )


@dataclass(frozen=True)
class Rollback:
    """The newest rollback. It is recorded before it changes the table."""

    run: str
    """The id of the first of a run and its retries."""
    to: str
    """What the run was asked to roll back to."""
    edition: int
    """The number of the edition that it chose."""
    time: datetime | None = None


@dataclass(frozen=True)
class PublicationRecord:
    """What the record says. It is changed by making another one."""

    publications: tuple[Publication, ...] = ()
    """The oldest comes first."""
    withdrawn: tuple[WithdrawnLists, ...] = ()
    rollback: Rollback | None = None

    @property
    def live(self) -> Publication | None:
        """What made the live edition live; None if nothing was published."""
        return self.publications[-1] if self.publications else None

    def find_baseline(self, edition: Edition) -> Publication | None:
        """What readers had before this edition was first published; None if nothing.

        Lists that were rolled back, and equal ones, are passed over.
        """
        first_place = next(
            (place for place, past in enumerate(self.publications) if past.is_of(edition)),
            len(self.publications),
        )
        withdrawn = {(lists.edition, lists.version) for lists in self.withdrawn}
        for past in reversed(self.publications[:first_place]):
            if past.version != edition.version and (past.edition, past.version) not in withdrawn:
                return past
        return None

    def is_withdrawn(self, edition: Edition) -> bool:
        """Whether the lists of this edition were rolled back."""
        return any(lists.is_of(edition) for lists in self.withdrawn)

    def find_withdrawn(
        self, *, keys: Collection[str] = (), source: str | None = None
    ) -> list[WithdrawnLists]:
        """The lists that were rolled back and have one of these keys, or this source."""
        return [
            lists
            for lists in self.withdrawn
            if lists.key in keys or (source is not None and lists.source == source)
        ]

    def allow(self, allowed: Collection[WithdrawnLists]) -> PublicationRecord:
        """The record without these withdrawn lists."""
        return replace(
            self, withdrawn=tuple(lists for lists in self.withdrawn if lists not in allowed)
        )

    def add_live(self, edition: Edition, written: datetime | None) -> PublicationRecord:
        """The record that ends with this edition, which is live.

        written: when its file was written.
        """
        if self.live is not None and self.live.is_of(edition):
            return self
        was_live = any(past.is_of(edition) for past in self.publications)
        publication = _describe_publication(edition)
        if was_live and self.rollback is not None and self.rollback.edition == edition.number:
            publication = replace(
                publication, since=self.rollback.time, why="rolled back", run=self.rollback.run
            )
        elif was_live:
            publication = replace(publication, since=written, why="restored by hand", run=None)
        publication = replace(publication, replaced=self.live.edition if self.live else None)
        return replace(self, publications=(*self.publications, publication))


_RECORD = TypeAdapter(PublicationRecord)


@dataclass(frozen=True)
class Publications:
    """Reads and writes the record. Its methods raise UserError."""

    files: ListFiles

    def read(self) -> PublicationRecord:
        """The record, which ends with the edition that is live now."""
        stored = self._read_stored()
        record = self._derive() if stored is None else stored
        edition = self.files.table.current()
        if edition is None or (record.live is not None and record.live.is_of(edition)):
            return record
        info = self.files.storage.store.head(edition.uri)
        return record.add_live(edition, None if info is None else info.last_modified)

    def write(self, record: PublicationRecord) -> None:
        """Replace the record, if it differs. Only a run that holds the step's lock may do so."""
        if record != self._read_stored():
            self.files.write_list_record(RECORD, _RECORD.dump_python(record, mode="json"))

    def settle(
        self, complete: Callable[[PublicationRecord], PublicationRecord] | None = None
    ) -> None:
        """Write down what is live now, after the table has changed.

        complete: adds to the record what else is known of the editions.
        """
        record = self.read()
        self.write(record if complete is None else complete(record))

    def _read_stored(self) -> PublicationRecord | None:
        values = self.files.list_record(RECORD)
        if not values:
            return None
        try:
            return _RECORD.validate_python(values)
        except ValidationError as error:
            place = self.files.uri(self.files.keys.list_record(RECORD))
            raise DamagedObjectError(self.files.storage.where(place), error, FIX) from error

    def _derive(self) -> PublicationRecord:
        """The record without a file of it: the editions that are kept, as they were published."""
        editions = sorted(self.files.table.all_editions(), key=lambda edition: edition.number)
        publications: list[Publication] = []
        for edition in editions:
            replaced = publications[-1].edition if publications else None
            publications.append(replace(_describe_publication(edition), replaced=replaced))
        return PublicationRecord(tuple(publications))


def fingerprint_source(
    data_version: str, trained_on: str | None, settings: Mapping[str, Any]
) -> str:
    """A fingerprint of the data and the settings that lists are made from."""
    source = [data_version, trained_on, settings]
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:32]


def fingerprint_edition(edition: Edition) -> str:
    """The fingerprint of what this edition is made from."""
    return fingerprint_source(edition.data_version, edition.trained_on, edition.settings)


def describe_withdrawn_source(
    key: str | None, withdrawn: Edition, restored: Edition | None
) -> str | None:
    """What lists that were rolled back were made from, by which another model's are recognised.

    key: what tells the lists from the restored ones. If that is not their model or settings, but
    their users for example, another model may make better ones.
    Returns None if the source does not tell them from the restored lists.
    """
    if key is None or withdrawn.made_by[0] != key:
        return None
    source = fingerprint_edition(withdrawn)
    is_same = restored is not None and source == fingerprint_edition(restored)
    return None if is_same else source


def _describe_publication(edition: Edition) -> Publication:
    """The first publication of this edition, as its metadata tell it."""
    return Publication(
        edition.number,
        edition.version,
        edition.made_at,
        "published",
        run=edition.run,
        data_until=edition.data_until,
    )
