"""A table that people read while it is replaced: one Parquet file that changes by one atomic put.

`FOLDER/NAME/NAME.parquet` is the published edition. `FOLDER/history/NAME/` keeps the editions
published before it, as `000012-VERSION.parquet`. Whenever a process is killed, readers still get
one whole edition.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

import polars as pl
from pydantic import BaseModel, Field

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError, ObjectStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# The key in Parquet's metadata whose value, a JSON object, is the table's Edition.
FOOTER_KEY = "batchrec"
# A footer nearly always fits into this many bytes.
FOOTER_BYTES = 64 * 1024
# The footer's length and four letters.
FOOTER_END_BYTES = 8
_IN_HISTORY = re.compile(r"(\d{6,})-\w+\.parquet")

# What a failed check does: it stops what comes after it, or only warns.
Severity = Literal["error", "warn"]


@dataclass(frozen=True)
class Finding:
    """A check's verdict."""

    name: str
    passed: bool
    text: str
    """What the check saw, and what to do if it failed, in words."""
    numbers: dict[str, int | float] = field(default_factory=dict)
    """The numbers behind the verdict, by name."""
    severity: Severity = "error"
    """What a failure does."""
    makes_output_unusable: bool = False
    """Whether a failure means that a batch job's output is of no use, so that no run should read
    it again."""

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    @property
    def blocks(self) -> bool:
        """Whether it failed and stops what comes after it."""
        return not self.passed and self.severity == "error"


class ListCounts(BaseModel, frozen=True):
    """What is in a table of lists."""

    rows: int = 0
    subjects: int = 0
    """How many users or items have a list."""
    items: int = 0
    """How many distinct items are in the lists."""
    failed: int = 0
    """How many requested users or items have no list, because Personalize returned an error."""
    seen_items_dropped: int = 0
    """How many results were left out because their user had already seen the item."""
    items_without_score: int = 0
    """How many rows are popular items that Personalize added without a score."""


class Edition(BaseModel, frozen=True):
    """What is known of one edition of lists; the footer of its file has all of it.

    What is None is not known, or does not apply.
    """

    address: str
    """Of the list, such as `shop` or `shop/newsletter`."""
    subject: Literal["user", "item", "segment"] = "user"
    """Whose lists they are."""
    number: int
    """From 1. It stays when users are dropped."""
    version: str
    """It differs if the content does. It stays when users are dropped."""
    made_at: datetime
    run: str
    """The id of the run that published it."""
    root_run: str
    """The id of the first of that run and its retries."""
    seconds: float | None = None
    """How long the run took from its start until the lists were live."""
    cost_usd: float = 0.0
    """What the run paid."""

    counts: ListCounts = ListCounts()
    findings: tuple[Finding, ...] = ()
    """Of the checks that it passed."""
    rules: tuple[dict[str, Any], ...] = ()
    """What each rule did."""
    filled: dict[str, int] = {}
    """How lists that rules left short were filled."""
    popularity: dict[str, Any] = {}
    """Which items were popular, if lists have such items."""
    newcomers: dict[str, Any] = {}
    """How many newcomers there were, and what they got."""
    reasons: dict[str, int] = {}
    """How many rows have each reason."""
    users_dropped: int = 0
    """How many users' rows were removed from this file after it was published."""

    made_by: tuple[str, ...]
    """Fingerprints of what made it, see `steps.publishing.Publishing.made_by`."""
    settings: dict[str, Any] = {}
    """The settings that decide what is in the lists, by path such as interactions.min_rating."""
    source: str = ""
    """The sources of the ratings, without the secrets of URLs."""
    sizes: dict[str, dict[str, Any]] = {}
    """How much there was of each part of the data."""
    data_version: str
    data_until: int | None = None
    """The time of the newest interaction, in epoch seconds."""
    exclude_seen: bool = False
    """Whether lists have nothing that their user had seen."""
    experiment: dict[str, Any] | None = None

    job_arn: str | None = None
    """That of the batch inference job that made it."""
    job_output: str | None = None
    """A fingerprint of the job's output."""
    results_asked_for: int | None = None
    """How many results the job was asked for, for each user or item."""
    inference_cost_usd: float | None = None
    """What the job costs where Amazon runs it."""

    solution_version_arn: str | None = None
    """That of the model."""
    recipe: str | None = None
    engine: str | None = None
    """What trained the model, in words."""
    trained_on: str | None = None
    """The first digits of the version of the data that the model was trained on."""
    trained_at: datetime | None = None
    measured_on: str
    """A fingerprint of the interactions that the model's metrics count. Metrics are compared if it
    is the same."""
    success: tuple[str, ...] = ()
    """The types of events that the metrics count alone; empty if they count all."""
    metrics: dict[str, float] = {}
    """The model's, by Personalize's names."""
    evidence: dict[str, float] = {}
    """How certain the metrics are, as personalize/evidence.py describes."""
    recent_popularity: dict[str, Any] = {}
    """What recommending popular items reaches, as `MeasuredPopularity` writes it."""

    uri: str = Field("", exclude=True)
    """Where the file is that this was read from."""

    @property
    def users(self) -> int | None:
        """How many users have a list in this file; None if the lists are of items."""
        return self.counts.subjects - self.users_dropped if self.subject == "user" else None

    @property
    def name(self) -> str:
        """Its name among the kept editions."""
        return f"{self.number:06}-{self.version}"

    def is_copy_of(self, other: Edition | None) -> bool:
        """Whether both are the same edition, perhaps without users who were dropped later."""
        return other is not None and self.name == other.name


@dataclass(frozen=True)
class PublishedTable:
    """The table at `uri`, which ends in `.parquet`, and its history.

    Raises UserError, and DamagedObjectError if a file is not one of Parquet.
    """

    store: ObjectStore
    uri: str
    companions: str | None = None
    """The URI of a folder, with its final slash, of files that belong to editions, if there may be
    any. Each is named after the version of its edition, and deleted with it."""

    @property
    def history(self) -> str:
        """The folder of the editions published before, with its final slash."""
        folder, name, _ = self.uri.rsplit("/", 2)
        return f"{folder}/history/{name}/"

    def current(self) -> Edition | None:
        """The published edition; None if nothing is published."""
        return self._edition(self.uri)

    def older(self) -> list[Edition]:
        """The editions published before, newest first."""
        current = self.current()
        return [edition for edition in self.history_editions() if not edition.is_copy_of(current)]

    def all_editions(self) -> list[Edition]:
        """The published edition and those published before, newest first."""
        current = self.current()
        return [*([current] if current else []), *self.older()]

    def history_editions(self) -> list[Edition]:
        """The editions in the history, newest first.

        After a publication was killed, the published one may be among them.
        """
        editions = []
        for uri in self._entries().values():
            # Nobody can go back to a damaged one.
            with suppress(DamagedObjectError):
                editions.append(self._edition(uri))
        return [edition for edition in editions if edition is not None]

    def read(self) -> tuple[Edition, pl.LazyFrame]:
        """The published edition, which does not change when a newer one replaces it.

        Raises ObjectNotFoundError if nothing is published.
        """
        return self._read(self.uri)

    def read_edition(self, edition: Edition) -> pl.LazyFrame:
        """The rows of this edition, published or older."""
        read_edition, rows = self._read(edition.uri)
        _require_same(read_edition, edition)
        return rows

    def open_edition(self, edition: Edition) -> tuple[Edition, BinaryIO]:
        """The file of this edition, published or older, and its metadata as they are in it.

        The file does not change when the edition's is replaced.
        """
        file = self.store.open(edition.uri)
        try:
            opened_edition = self._read_edition(file, edition.uri)
            _require_same(opened_edition, edition)
        except BaseException:
            file.close()
            raise
        return opened_edition, file

    def next_number(self) -> int:
        """The number of the next edition."""
        current = self.current()
        return 1 + max([current.number if current else 0, *self._entries()])

    def publish(self, file: Path, keep: int) -> Edition:
        """Publish a table, and return its edition. If its version is published and complete,
        nothing changes.

        file: as `TableWriter` wrote it.
        keep: how many older editions stay, the replaced one among them.
        """
        edition = read_footer(file).model_copy(update={"uri": self.uri})
        current = self.current()
        is_published = current is not None and current.version == edition.version
        if current is not None and is_published and not current.users_dropped:
            return current
        self._replace(current, edition, keep, lambda: self.store.put(self.uri, file))
        return edition

    def put_back(self, edition: Edition, keep: int, file: Path | None = None) -> None:
        """Publish an older edition again, unless it is the published one.

        It keeps the one that it replaces.

        file: what is published instead of the edition's own file: the same without some users.
        """
        current = self.current()
        if edition.is_copy_of(current):
            return
        if file is None:
            self._replace(current, edition, keep, lambda: self.store.copy(edition.uri, self.uri))
        else:
            self._replace(current, edition, keep, lambda: self.store.put(self.uri, file))

    def keep_copy(self, edition: Edition) -> None:
        """Copy the published edition into the history, if it is not there."""
        copy_uri = f"{self.history}{edition.name}.parquet"
        if self.store.head(copy_uri) is None:
            self.store.copy(edition.uri, copy_uri)

    def find_whole_copy(self, edition: Edition) -> Edition:
        """The edition in the history if users were dropped from the published one, or else this."""
        if not edition.users_dropped:
            return edition
        copies = (copy for copy in self.history_editions() if copy.is_copy_of(edition))
        return next(copies, edition)

    def _replace(
        self, replaced: Edition | None, edition: Edition, keep: int, put: Callable[[], object]
    ) -> None:
        if replaced is not None:
            self.keep_copy(replaced)
        put()
        self._prune(replaced, edition, keep)

    def _prune(self, replaced: Edition | None, edition: Edition, keep: int) -> None:
        """Delete all but the newest `keep` older editions, and their companions. The replaced one
        counts as the newest."""
        names_to_keep = {edition.name, *([replaced.name] if replaced else [])}
        files = self._files()
        names = map(self._name, _sort_by_number(files).values())
        older_names = [name for name in names if name not in names_to_keep]
        names_to_keep.update(older_names[: max(0, keep - (replaced is not None))])
        for _, uri in files:
            if self._name(uri) not in names_to_keep:
                self.store.delete(uri)
        if self.companions is not None:
            versions_to_keep = {name.partition("-")[2] for name in names_to_keep}
            for info in self.store.list(self.companions):
                if PurePosixPath(info.uri).stem not in versions_to_keep:
                    self.store.delete(info.uri)

    def _entries(self) -> dict[int, str]:
        """The URIs of the history's files by edition number, newest first."""
        return _sort_by_number(self._files())

    def _files(self) -> list[tuple[int, str]]:
        """The edition number and the URI of each of the history's files, in order of URI."""
        files = []
        for info in self.store.list(self.history):
            match = _IN_HISTORY.fullmatch(info.uri, len(self.history))
            if match:
                files.append((int(match[1]), info.uri))
        return files

    def _name(self, uri: str) -> str:
        return uri.removeprefix(self.history).removesuffix(".parquet")

    def _read(self, uri: str) -> tuple[Edition, pl.LazyFrame]:
        with self.store.open(uri) as file:
            edition = self._read_edition(file, uri)
            # Polars keeps this very file when it is closed and replaced here; given a path, it
            # could read the footer of one edition and the rows of another.
            return edition, pl.scan_parquet(file)

    def _read_edition(self, file: BinaryIO, uri: str) -> Edition:
        """The edition in this file. The file's position is its start then."""
        edition = _read_footer_or_explain(file, self.store, uri)
        file.seek(0)
        return edition

    def _edition(self, uri: str) -> Edition | None:
        """The edition at this URI; None if there is none."""
        try:
            return _read_footer_in_storage(self.store, uri)
        except ObjectNotFoundError:
            return None


def _require_same(edition: Edition, expected: Edition) -> None:
    if not edition.is_copy_of(expected):
        raise UserError(f"{expected.uri}: new lists were published meanwhile. Run it again")


def _sort_by_number(files: list[tuple[int, str]]) -> dict[int, str]:
    """The URIs by edition number, newest first."""
    return dict(sorted(dict(files).items(), reverse=True))


class TableWriter(ExitStack):
    """Writes a table piece by piece to a Parquet file. Its metadata may become known last."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Add rows. All calls have the same columns."""
        if self._writer is None:
            import pyarrow.parquet as pq

            writer = pq.ParquetWriter(self.path, rows.schema, compression="zstd")
            self._writer = self.enter_context(writer)
        self._writer.write_table(rows)

    def finish(self, edition: Edition) -> None:
        """Close the file. `write` must have been called, if only with a table without rows."""
        assert self._writer is not None
        self._writer.add_key_value_metadata({FOOTER_KEY: edition.model_dump_json()})
        self.close()


def _read_footer_length(end: bytes) -> int:
    """The length of a Parquet file's footer, with the length itself and the four letters after it.

    end: the last 8 bytes of the file, or more.
    """
    return int.from_bytes(end[-8:-4], "little") + FOOTER_END_BYTES


def read_footer(file: Path | IO[bytes]) -> Edition:
    """The edition that the table's footer describes. Raises ValueError if it describes none."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(file).metadata or {}
    return Edition.model_validate_json(metadata.get(FOOTER_KEY.encode(), b""))


def _read_footer_in_storage(store: ObjectStore, uri: str) -> Edition:
    """The edition of a table in the storage, of which only the end is read, in one piece."""
    end = store.tail(uri, FOOTER_BYTES)
    footer_bytes = _read_footer_length(end)
    if footer_bytes > len(end):
        end = store.tail(uri, footer_bytes)
    return _read_footer_or_explain(io.BytesIO(end), store, uri)


def _read_footer_or_explain(file: IO[bytes], store: ObjectStore, uri: str) -> Edition:
    import pyarrow as pa

    try:
        return read_footer(file).model_copy(update={"uri": uri})
    except (pa.ArrowException, OSError, ValueError) as error:
        fix = "delete it, and run the refresh to publish a new one; the older ones remain"
        raise DamagedObjectError(str(store.local_path(uri) or uri), error, fix) from error
