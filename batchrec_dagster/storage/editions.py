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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

import polars as pl

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.edition import Edition, Finding
from batchrec_dagster.storage.list_file import read_footer, read_footer_length
from batchrec_dagster.storage.lock import Lock
from batchrec_dagster.storage.nights import EditionsRecord, Night
from batchrec_dagster.storage.objects import (
    ABSENT,
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectReplacedError,
    ObjectStore,
)
from batchrec_dagster.storage.records import load

# A footer nearly always fits into this many bytes.
FOOTER_BYTES = 64 * 1024
# The record is written this often if others write it at the same time.
MOST_ATTEMPTS = 20
_KEPT = re.compile(r"(\d{6,})-\w+\.parquet")


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
        # What a killed run put there stands in no other place yet.
        self.settle()
        live = self.live()
        if live is not None and live.version == edition.version and not live.users_dropped:
            return live
        if live is not None:
            self._keep_copy(live)
        lock.require_held()
        # A run that is overtaken after this must not replace what it has not seen.
        self.store.replace(self.uri, file, ABSENT if info is None else info.etag)
        self.settle()
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
        """Record what is live now, unless that is recorded."""
        self._change_record(lambda record: record)

    def add_night(self, night: Night) -> None:
        """Record a night that published nothing, instead of what the step did in it before."""
        self._change_record(lambda record: record.without(night.run, night.steps).add(night))

    def judge_again(self, findings: Sequence[Finding]) -> None:
        """Record what a run found of the live edition, which it would have made again."""
        self._change_record(lambda record: record.model_copy(update={"judged": tuple(findings)}))

    def remove_nights(self, run: str, step: str) -> None:
        """Forget that the step ended this run, because a retry of it succeeded."""
        self._change_record(lambda record: record.without(run, (step,)))

    def _change_record(self, change: Callable[[EditionsRecord], EditionsRecord]) -> None:
        """Write the record as this changes it, also if other steps write it at the same time."""
        for _ in range(MOST_ATTEMPTS):
            info = self.store.head(self.record_uri)
            record = change(self.record())
            if record == (load(self.store, self.record_uri, EditionsRecord) or EditionsRecord()):
                return
            content = (record.model_dump_json(indent=2) + "\n").encode()
            with suppress(ObjectReplacedError):
                self.store.replace(self.record_uri, content, ABSENT if info is None else info.etag)
                return
        raise UserError(f"{self.record_uri} is written by others all the time: run again")

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
        """The edition in the footer of this file. Raises DamagedObjectError.

        uri: where the file is.
        """
        import pyarrow as pa

        try:
            return read_footer(file, Edition).model_copy(update={"uri": uri})
        except (pa.ArrowException, OSError, ValueError) as error:
            fix = "delete it, and run the refresh to publish a new one; the older ones remain"
            raise DamagedObjectError(str(self.store.local_path(uri) or uri), error, fix) from error


def _add_live(record: EditionsRecord, edition: Edition) -> EditionsRecord:
    """The record that ends with this edition, which is live."""
    return record.add(Night.of(edition)).model_copy(update={"withdrawn": edition.withdrawn})
