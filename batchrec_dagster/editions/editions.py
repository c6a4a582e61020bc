"""The editions of a list: the live edition, the kept ones, and the record of all nights.

`FOLDER/NAME/NAME.parquet` is the live edition. One atomic put replaces it, so that readers get one
whole edition even if a process is killed. Its footer holds the `Edition`.
`FOLDER/history/NAME/` keeps the editions that were live before, as `000012-VERSION.parquet`.
`records/editions.json` has the result of each night, and the lists that were rolled back.

The live file decides which edition is live. It is written after the previous live edition is kept,
and before the record is written. If a process is killed in between, or the record is lost, the
missing entries come from the footers.
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

from batchrec_dagster.editions.edition import Edition, Finding
from batchrec_dagster.editions.list_file import read_footer, read_footer_length
from batchrec_dagster.editions.nights import EditionsRecord, Night
from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.lock import Lock
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
# The number of attempts to write the record if other steps write it at the same time.
MOST_ATTEMPTS = 20
_KEPT = re.compile(r"(\d{6,})-\w+\.parquet")


@dataclass(frozen=True)
class Editions:
    """The editions of a list. Its methods raise UserError.

    A damaged live file raises DamagedObjectError. A damaged kept file is skipped.
    """

    store: ObjectStore
    uri: str
    """The URI of the live edition, which ends in `.parquet`."""
    record_uri: str
    """The URI of `editions.json`."""
    companions: str | None = None
    """The URI of a folder of files that belong to editions; None if there can be none.

    The URI ends with a slash. Each file is named after the version of its edition, and deleted with
    the edition.
    """

    @property
    def history(self) -> str:
        """The folder of the kept editions, with its final slash."""
        folder, name, _ = self.uri.rsplit("/", 2)
        return f"{folder}/history/{name}/"

    def live(self) -> Edition | None:
        """Return the live edition; None if nothing is published."""
        return self._read_edition(self.uri)

    def older(self) -> list[Edition]:
        """Return the kept editions except the live one, newest first."""
        live = self.live()
        return [edition for edition in self.kept() if not edition.is_copy_of(live)]

    def live_and_older(self) -> list[Edition]:
        """Return the live edition and the older editions that are kept, newest first."""
        live = self.live()
        return [*([live] if live else []), *self.older()]

    def kept(self) -> list[Edition]:
        """Return the kept editions, newest first. The live edition may be among them."""
        editions = []
        for uri in self._number_files().values():
            # Nobody can go back to a damaged edition.
            with suppress(DamagedObjectError):
                editions.append(self._read_edition(uri))
        return [edition for edition in editions if edition is not None]

    def read(self) -> tuple[Edition, pl.LazyFrame]:
        """Return the live edition and its rows.

        The rows stay the same when a newer edition replaces the live one.
        Raises ObjectNotFoundError if nothing is published.
        """
        with self.store.open(self.uri) as file:
            edition = self._read_opened(file, self.uri)
            # Polars keeps this file open for itself, even after this block closes it and a newer
            # edition replaces it. From a path, Polars could read the footer of one edition and the
            # rows of another.
            return edition, pl.scan_parquet(file)

    def read_rows(self, edition: Edition) -> pl.LazyFrame:
        """Return the rows of an edition, live or older."""
        with self.open(edition) as file:
            return pl.scan_parquet(file)

    def open(self, edition: Edition) -> BinaryIO:
        """Open the file of an edition, live or older.

        The opened file stays the same when the edition is replaced.
        Raises UserError if new lists have replaced the edition already.
        """
        file = self.store.open(edition.uri)
        try:
            if not self._read_opened(file, edition.uri).is_copy_of(edition):
                raise UserError(f"{edition.uri}: new lists were published meanwhile. Run it again")
        except BaseException:
            file.close()
            raise
        return file

    def next_number(self) -> int:
        """Return the number of the next edition."""
        recorded = [night.edition or 0 for night in self.record().nights]
        return 1 + max([0, *recorded, *self._number_files()])

    def publish(self, file: Path, keep: int, lock: Lock) -> Edition:
        """Make an edition live, and return it.

        If its version is already live, and no user was dropped from the live file, nothing changes.

        file: the file that `ListWriter` wrote.
        keep: the number of older editions to keep, including the replaced one.
        lock: the lock of the list. Raises UserError if another run has taken the lock over.
        """
        info = self.store.head(self.uri)
        edition = read_footer(file, Edition).model_copy(update={"uri": self.uri})
        # If a run was killed after it made an edition live, the record lacks that edition.
        self.settle()
        live = self.live()
        if live is not None and live.version == edition.version and not live.users_dropped:
            return live
        if live is not None:
            self._keep_copy(live)
        lock.require_held()
        # If another run takes over after this point, this run must not replace that run's edition.
        self.store.replace(self.uri, file, ABSENT if info is None else info.etag)
        self.settle()
        self._prune(live, edition, keep)
        return edition

    def find_whole_copy(self, edition: Edition) -> Edition:
        """Return the kept copy of the edition as first published, or else the edition itself."""
        copies = (copy for copy in self.kept() if copy.is_copy_of(edition))
        return next(copies, edition) if edition.users_dropped else edition

    def record(self) -> EditionsRecord:
        """Return the record of all nights, up to the edition that is live now."""
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
            # Somebody has copied an older edition to the place of the live one.
            info = self.store.head(self.uri)
            time = live.live_since if info is None else info.last_modified
            copied = {"because": "rollback", "live_since": time, "live_by": ""}
            replaced = {"replaced": last.edition if last is not None else None}
            night = Night.of(live.model_copy(update={**copied, **replaced}))
            return record.add(night)
        return _add_live(record, live)

    def settle(self) -> None:
        """Record the edition that is live now, unless the record has it."""
        self._change_record(lambda record: record)

    def add_night(self, night: Night) -> None:
        """Record a night that published nothing.

        The night replaces earlier nights with the same run and the same steps.
        """
        self._change_record(lambda record: record.without(night.run, night.steps).add(night))

    def judge_again(self, findings: Sequence[Finding]) -> None:
        """Record a run's findings about the live edition, which the run would have made again."""
        self._change_record(lambda record: record.model_copy(update={"judged": tuple(findings)}))

    def remove_nights(self, run: str, step: str) -> None:
        """Remove the nights that this step ended, because a retry of the step succeeded.

        run: the id in `Night.run`.
        """
        self._change_record(lambda record: record.without(run, (step,)))

    def _change_record(self, change: Callable[[EditionsRecord], EditionsRecord]) -> None:
        """Change the record and write it, even if other steps write it at the same time."""
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
        """Build the record from the footers of the kept editions, as they were first published.

        The lists that were rolled back are in the footer of the edition that replaced them.
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
        """Delete all but the newest `keep` older editions, and the companions of deleted editions.

        The replaced edition counts as the newest one.
        """
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
        """Return the URIs of the kept files by edition number, newest first."""
        return dict(sorted(dict(self._files()).items(), reverse=True))

    def _files(self) -> list[tuple[int, str]]:
        """Return the edition number and the URI of each kept file."""
        files = []
        for info in self.store.list(self.history):
            match = _KEPT.fullmatch(info.uri, len(self.history))
            if match:
                files.append((int(match[1]), info.uri))
        return files

    def _name(self, uri: str) -> str:
        return uri.removeprefix(self.history).removesuffix(".parquet")

    def _read_opened(self, file: BinaryIO, uri: str) -> Edition:
        """Return the edition in this file, and set the file's position to its start."""
        edition = self._parse_footer(file, uri)
        file.seek(0)
        return edition

    def _read_edition(self, uri: str) -> Edition | None:
        """Return the edition at this URI; None if there is none.

        Only the end of the file is read. The footer comes from a single request, so all its bytes
        are of one version.
        """
        try:
            end = self.store.tail(uri, FOOTER_BYTES)
            footer_bytes = read_footer_length(end)
            if footer_bytes > len(end):
                end = self.store.tail(uri, footer_bytes)
        except ObjectNotFoundError:
            return None
        return self._parse_footer(io.BytesIO(end), uri)

    def _parse_footer(self, file: IO[bytes], uri: str) -> Edition:
        """Return the edition in the file's footer. Raises DamagedObjectError.

        uri: the URI of the file.
        """
        import pyarrow as pa

        try:
            return read_footer(file, Edition).model_copy(update={"uri": uri})
        except (pa.ArrowException, OSError, ValueError) as error:
            fix = "delete it, and run the refresh to publish a new one; the older ones remain"
            raise DamagedObjectError(str(self.store.local_path(uri) or uri), error, fix) from error


def _add_live(record: EditionsRecord, edition: Edition) -> EditionsRecord:
    """Return the record with this live edition as its last night."""
    return record.add(Night.of(edition)).model_copy(update={"withdrawn": edition.withdrawn})
