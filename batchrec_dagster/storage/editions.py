"""The editions of a list: what is live, what is kept, and what each night did.

`FOLDER/NAME/NAME.parquet` is the live edition, which changes by one atomic put, so that readers get
one whole edition whenever a process is killed. Its footer holds the `Edition`.
`FOLDER/history/NAME/` keeps the editions that were live before, as `000012-VERSION.parquet`.
`records/editions.json` says what each night did, and which lists were rolled back.

The live file decides: it is put after its predecessor is kept, and before the record is written.
If a process is killed in between, or the record is lost, footers say what it lacks.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.edition import Edition, Withdrawn
from batchrec_dagster.storage.list_file import read_footer, read_footer_length
from batchrec_dagster.storage.lock import Lock
from batchrec_dagster.storage.objects import (
    ABSENT,
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectStore,
)
from batchrec_dagster.storage.records import load, save

# A footer nearly always fits into this many bytes.
FOOTER_BYTES = 64 * 1024
# The nights that published nothing of a year and a month are remembered. There are more only where
# runs fail by the hour.
MOST_OTHER_NIGHTS = 400
_KEPT = re.compile(r"(\d{6,})-\w+\.parquet")


class Night(BaseModel, frozen=True):
    """A run that made an edition live, or ended without. It names no user.

    What is None is not known, or does not apply.
    """

    time: datetime
    """When the edition became live, or the run ended."""
    ended: Literal["published", "restored", "refused", "failed", "stopped", "unchanged"]
    """`restored` if a rollback made older lists live again, `refused` if a check failed,
    `unchanged` if there was nothing new to publish."""
    run: str
    """The id of the first of the run and its retries; empty if it is not known."""

    edition: int | None = None
    """The number of the edition that became live."""
    version: str | None = None
    """Its version."""
    replaced: int | None = None
    """The number of the edition that was live before."""
    data_until: int | None = None
    """The time of the newest interaction that the edition was made from, in epoch seconds."""
    users: int | None = None
    """How many users have a list."""

    steps: tuple[str, ...] = ()
    """The assets whose steps ended the run, if it made no edition live."""
    checks: tuple[str, ...] = ()
    """The names of the checks that refused."""

    ndcg: float | None = None
    """The NDCG@25 of the edition's model, or of the model that was refused."""
    ndcg_low: float | None = None
    ndcg_high: float | None = None
    popular_ndcg: float | None = None
    """The NDCG@25 of recommending the most popular items."""
    measured_on: str | None = None
    """As that of the edition."""
    success: tuple[str, ...] = ()
    """The types of events that the NDCG counts alone; empty if it counts all."""
    cost_usd: float | None = None
    """What the run paid."""
    seconds: float | None = None
    """How long the run took until the edition was live, or until it ended."""

    @classmethod
    def of(cls, edition: Edition) -> Night:
        """The night in which the edition became live last."""
        is_new = edition.because == "published"
        return cls(
            time=edition.live_since,
            ended="published" if is_new else "restored",
            run=edition.live_by,
            edition=edition.number,
            version=edition.version,
            replaced=edition.replaced,
            data_until=edition.data_until,
            users=edition.counts.subjects if edition.subject == "user" else None,
            ndcg=edition.ndcg,
            ndcg_low=edition.ndcg_low,
            ndcg_high=edition.ndcg_high,
            popular_ndcg=edition.popular_ndcg,
            measured_on=edition.measured_on,
            success=edition.success,
            # Those of the run that made it are no part of a rollback.
            cost_usd=edition.cost_usd if is_new else None,
            seconds=edition.seconds if is_new else None,
        )

    def is_of(self, edition: Edition) -> bool:
        """Whether it made this edition live."""
        return (self.edition, self.version) == (edition.number, edition.version)

    @property
    def because(self) -> str:
        """Why its edition became live: `published` or `rolled back`."""
        return "published" if self.ended == "published" else "rolled back"

    @property
    def description(self) -> str:
        """Since when its edition is live, and why, such as `since 2026-11-24 03:10 UTC`."""
        text = f"since {self.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if self.ended == "restored":
            text += f", rolled back to from edition {self.replaced}"
        return text


class EditionsRecord(BaseModel, frozen=True):
    """What `editions.json` has."""

    nights: tuple[Night, ...] = ()
    """The oldest comes first."""
    withdrawn: tuple[Withdrawn, ...] = ()
    """The lists that were rolled back, and may not come back by themselves."""

    @property
    def publications(self) -> tuple[Night, ...]:
        """The nights in which an edition became live, the oldest first."""
        return tuple(night for night in self.nights if night.edition is not None)

    @property
    def live(self) -> Night | None:
        """The night that made the live edition live; None if nothing was published."""
        return self.publications[-1] if self.publications else None

    def is_withdrawn(self, edition: Edition) -> bool:
        """Whether the lists of this edition were rolled back."""
        return any(lists.matches(edition) for lists in self.withdrawn)

    def find_before(self, edition: Edition) -> Night | None:
        """What readers had before this edition was first published; None if nothing.

        Lists that were rolled back, and equal ones, are passed over.
        """
        withdrawn = {lists.number for lists in self.withdrawn}
        before = None
        for night in self.publications:
            if night.is_of(edition):
                break
            if night.version != edition.version and night.edition not in withdrawn:
                before = night
        return before

    def without(self, run: str, steps: tuple[str, ...]) -> EditionsRecord:
        """The record without the nights that ended in these steps of the run."""
        kept = (
            night
            for night in self.nights
            if (night.edition, night.run, night.steps) != (None, run, steps)
        )
        return self.model_copy(update={"nights": tuple(kept)})

    def add(self, night: Night) -> EditionsRecord:
        """The record with another night. Of those that published nothing the newest stay."""
        nights = [*self.nights, night]
        others = [place for place, past in enumerate(nights) if past.edition is None]
        forgotten = {*others[:-MOST_OTHER_NIGHTS]}
        kept = (past for place, past in enumerate(nights) if place not in forgotten)
        return self.model_copy(update={"nights": tuple(kept)})


@dataclass(frozen=True)
class Editions:
    """The editions of one list. Its methods raise UserError.

    A live file that is damaged is a DamagedObjectError; a kept one is passed over.
    """

    store: ObjectStore
    uri: str
    """The URI of the live edition, which ends in `.parquet`."""
    record_uri: str
    """The URI of `editions.json`."""
    companions: str | None = None
    """The URI of a folder, with its final slash, of files that belong to editions, if there may be
    any. Each is named after the version of its edition, and deleted with it."""

    @property
    def history(self) -> str:
        """The folder of the kept editions, with its final slash."""
        folder, name, _ = self.uri.rsplit("/", 2)
        return f"{folder}/history/{name}/"

    def live(self) -> Edition | None:
        """The live edition; None if nothing is published."""
        return self._read_edition(self.uri)

    def older(self) -> list[Edition]:
        """The kept editions but the live one, newest first."""
        live = self.live()
        return [edition for edition in self.kept() if not edition.is_copy_of(live)]

    def live_and_older(self) -> list[Edition]:
        """The live edition and the older ones that are kept, newest first."""
        live = self.live()
        return [*([live] if live else []), *self.older()]

    def kept(self) -> list[Edition]:
        """The editions that are kept, newest first. The live one may be among them."""
        editions = []
        for uri in self._number_files().values():
            # Nobody can go back to a damaged one.
            with suppress(DamagedObjectError):
                editions.append(self._read_edition(uri))
        return [edition for edition in editions if edition is not None]

    def read(self) -> tuple[Edition, pl.LazyFrame]:
        """The live edition and its rows, which stay the same when a newer one replaces them.

        Raises ObjectNotFoundError if nothing is published.
        """
        with self.store.open(self.uri) as file:
            edition = self._read_opened(file, self.uri)
            # Polars keeps this very file when it is closed and replaced here; given a path, it
            # could read the footer of one edition and the rows of another.
            return edition, pl.scan_parquet(file)

    def read_rows(self, edition: Edition) -> pl.LazyFrame:
        """The rows of this edition, live or older."""
        with self.open(edition) as file:
            return pl.scan_parquet(file)

    def open(self, edition: Edition) -> BinaryIO:
        """The file of this edition, live or older, which stays the same when it is replaced."""
        file = self.store.open(edition.uri)
        try:
            if not self._read_opened(file, edition.uri).is_copy_of(edition):
                raise UserError(f"{edition.uri}: new lists were published meanwhile. Run it again")
        except BaseException:
            file.close()
            raise
        return file

    def next_number(self) -> int:
        """The number of the next edition."""
        recorded = [night.edition or 0 for night in self.record().nights]
        return 1 + max([0, *recorded, *self._number_files()])

    def publish(self, file: Path, keep: int, lock: Lock) -> Edition:
        """Make an edition live, and return it. If its version is live and whole, nothing changes.

        file: as `ListWriter` wrote it.
        keep: how many older editions stay, the replaced one among them.
        lock: that of the list. Raises UserError if another run has taken it over.
        """
        info = self.store.head(self.uri)
        edition = read_footer(file, Edition).model_copy(update={"uri": self.uri})
        live, record = self.live(), self.record()
        if live is not None and live.version == edition.version and not live.users_dropped:
            self._write_record(record)
            return live
        if live is not None:
            self._keep_copy(live)
        lock.require_held()
        # A run that is overtaken after this must not replace what it has not seen.
        self.store.replace(self.uri, file, ABSENT if info is None else info.etag)
        self._write_record(_add_live(record, edition))
        self._prune(live, edition, keep)
        return edition

    def find_whole_copy(self, edition: Edition) -> Edition:
        """The edition as it was first published, if it is kept so, or else this."""
        copies = (copy for copy in self.kept() if copy.is_copy_of(edition))
        return next(copies, edition) if edition.users_dropped else edition

    def record(self) -> EditionsRecord:
        """What each night did, up to the edition that is live now."""
        record = load(self.store, self.record_uri, EditionsRecord)
        if record is None:
            record = self._derive_record()
        live = self.live()
        last = record.live
        if live is None:
            return record
        if last is not None and last.is_of(live) and last.time >= live.live_since:
            return record
        if Night.of(live) in record.nights:
            # Somebody has copied an older edition to its place.
            info = self.store.head(self.uri)
            time = live.live_since if info is None else info.last_modified
            copied = {"because": "rollback", "live_since": time, "live_by": ""}
            replaced = {"replaced": last.edition if last is not None else None}
            night = Night.of(live.model_copy(update={**copied, **replaced}))
            return record.add(night)
        return _add_live(record, live)

    def settle(self) -> None:
        """Write down what is live now, if a killed run did not."""
        self._write_record(self.record())

    def add_night(self, night: Night) -> None:
        """Record a night that published nothing, instead of what the step did in it before."""
        self._write_record(self.record().without(night.run, night.steps).add(night))

    def remove_nights(self, run: str, step: str) -> None:
        """Forget that the step ended this run, because a retry of it succeeded."""
        self._write_record(self.record().without(run, (step,)))

    def _write_record(self, record: EditionsRecord) -> None:
        if record != load(self.store, self.record_uri, EditionsRecord):
            save(self.store, self.record_uri, record)

    def _derive_record(self) -> EditionsRecord:
        """The record without a file of it: the kept editions, as they were first published.

        Which lists were rolled back stands in the footer of what replaced them.
        """
        record = EditionsRecord()
        for edition in reversed(self.kept()):
            record = _add_live(record, edition)
        return record

    def _keep_copy(self, live: Edition) -> None:
        uri = f"{self.history}{live.name}.parquet"
        if self.store.head(uri) is None:
            self.store.copy(live.uri, uri)

    def _prune(self, replaced: Edition | None, live: Edition, keep: int) -> None:
        """Delete all but the newest `keep` older editions, and their companions. The replaced one
        counts as the newest."""
        names_to_keep = {live.name, *([replaced.name] if replaced else [])}
        names = [self._name(uri) for uri in self._number_files().values()]
        older_names = [name for name in names if name not in names_to_keep]
        names_to_keep.update(older_names[: max(0, keep - (replaced is not None))])
        for _, uri in self._files():
            if self._name(uri) not in names_to_keep:
                self.store.delete(uri)
        if self.companions is not None:
            versions_to_keep = {name.partition("-")[2] for name in names_to_keep}
            for info in self.store.list(self.companions):
                if PurePosixPath(info.uri).stem not in versions_to_keep:
                    self.store.delete(info.uri)

    def _number_files(self) -> dict[int, str]:
        """The URIs of the kept files by edition number, newest first."""
        return dict(sorted(dict(self._files()).items(), reverse=True))

    def _files(self) -> list[tuple[int, str]]:
        """The edition number and the URI of each of the kept files."""
        files = []
        for info in self.store.list(self.history):
            match = _KEPT.fullmatch(info.uri, len(self.history))
            if match:
                files.append((int(match[1]), info.uri))
        return files

    def _name(self, uri: str) -> str:
        return uri.removeprefix(self.history).removesuffix(".parquet")

    def _read_opened(self, file: BinaryIO, uri: str) -> Edition:
        """The edition in this file. The file's position is its start then."""
        edition = self._parse_footer(file, uri)
        file.seek(0)
        return edition

    def _read_edition(self, uri: str) -> Edition | None:
        """The edition at this URI, of which only the end is read, in one piece; None if there is
        none."""
        try:
            end = self.store.tail(uri, FOOTER_BYTES)
            footer_bytes = read_footer_length(end)
            if footer_bytes > len(end):
                end = self.store.tail(uri, footer_bytes)
        except ObjectNotFoundError:
            return None
        return self._parse_footer(io.BytesIO(end), uri)

    def _parse_footer(self, file: IO[bytes], uri: str) -> Edition:
        import pyarrow as pa

        try:
            return read_footer(file, Edition).model_copy(update={"uri": uri})
        except (pa.ArrowException, OSError, ValueError) as error:
            fix = "delete it, and run the refresh to publish a new one; the older ones remain"
            raise DamagedObjectError(str(self.store.local_path(uri) or uri), error, fix) from error


def _add_live(record: EditionsRecord, edition: Edition) -> EditionsRecord:
    """The record that ends with this edition, which is live."""
    return record.add(Night.of(edition)).model_copy(update={"withdrawn": edition.withdrawn})
