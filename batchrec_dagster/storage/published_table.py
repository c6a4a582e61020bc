"""Parquet files that say what they are: a table written piece by piece, and read from its end."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec_dagster.storage.object_store import ObjectNotFoundError, ObjectStore

# How often a reader looks again, when a table in one file becomes one in parts as it looks.
LOOKS = 5

Source = TypeVar("Source")
_IN_HISTORY = re.compile(r"((\d{6,})-\w+)(\.parquet|\.json|/[^/]+)")


@dataclass(frozen=True)
class Edition:
    """The table as it was published once. about: what it says of itself, `edition` (1 is the first)
    and `version` (another for another content) among it; uri: where its file lies, or its manifest;
    parts: the URIs of its parts, none where it is one file."""

    about: Mapping[str, Any]
    uri: str = field(compare=False)
    parts: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """0 where the table does not say."""
        return int(self.about.get("edition", 0))

    @property
    def version(self) -> str:
        return str(self.about.get("version", "unknown"))

    @property
    def name(self) -> str:
        """What it is called in the history."""
        return f"{self.number:06}-{self.version}"


@dataclass(frozen=True)
class PublishedTable:
    """The table at `uri`, which ends in `.parquet`, and its history."""

    store: ObjectStore
    uri: str

    @property
    def manifest(self) -> str:
        """Where its manifest lies while it is in parts."""
        return self.uri.removesuffix(".parquet") + ".manifest.json"

    @property
    def history(self) -> str:
        """The folder of the editions published before, with its final slash."""
        folder, name, _ = self.uri.rsplit("/", 2)
        return f"{folder}/history/{name}/"

    def current(self) -> Edition | None:
        """What is published; None where nothing is."""
        for _ in range(LOOKS):
            found = self._edition(self.manifest) or self._edition(self.uri)
            if found is not None or self.store.head(self.manifest) is None:
                return found
        raise ObjectNotFoundError(f"{self.uri} changes too often to be read: try again")

    def older(self) -> list[Edition]:
        """What was published before, the newest first."""
        current = self.current()
        found = [self._edition(uri) for uri in self._entries().values()]
        return [edition for edition in found if edition is not None and edition != current]

    def read(self) -> tuple[Edition, pl.LazyFrame]:
        """What is published, which stays as it is however long it is read and whatever replaces it.

        Raises ObjectNotFoundError where nothing is published.
        """
        looks = 0
        while True:
            looks += 1
            edition = self._edition(self.manifest)
            try:
                with ExitStack() as stack:
                    files: list[IO[bytes]] = [
                        stack.enter_context(self.store.opened(uri))
                        for uri in (edition.parts if edition else [self.uri])
                    ]
                    if edition is None:
                        edition = Edition(told_by(files[0]), self.uri)
                        files[0].seek(0)
                    # Polars goes on with these very files when they are closed and replaced here;
                    # of a path it would read the end of one edition and the rows of another.
                    return edition, pl.scan_parquet(files)
            except ObjectNotFoundError:
                if looks == LOOKS or self.store.head(self.manifest) is None:
                    raise

    def next_number(self) -> int:
        """The number of an edition that is still to be published."""
        current = self.current()
        return 1 + max([current.number if current else 0, *self._entries()])

    def publish(self, files: Sequence[Path], keep: int) -> Edition:
        """Publish an edition, whose files `TableFiles` wrote, and keep `keep` older ones, what it
        replaces among them. What is published already, by its version, stays as it is."""
        about = told_by(files[0])
        if len(files) > 1:
            return self._publish_parts(files, self._put, about, keep)
        put = partial(self._put, files[0], self.uri)
        return self._publish(Edition(about, self.uri), put, keep)

    def publish_stored(self, parts: Sequence[str], about: Mapping[str, Any], keep: int) -> Edition:
        """The same of parts that lie in the storage already, in this order, by their URIs: they are
        copied there. Not they but the manifest says what the table is."""
        return self._publish_parts(parts, self.store.copy, about, keep)

    def _publish_parts(
        self,
        parts: Sequence[Source],
        put: Callable[[Source, str], object],
        about: Mapping[str, Any],
        keep: int,
    ) -> Edition:
        names = [f"{Edition(about, '').name}/part-{n:05}.parquet" for n in range(len(parts))]
        uris = tuple(self.history + name for name in names)

        def put_all() -> None:
            for part, uri in zip(parts, uris, strict=True):
                put(part, uri)
            manifest = json.dumps({ABOUT: about, "parts": names}, indent=2).encode()
            self.store.put(self.manifest, manifest)

        return self._publish(Edition(about, self.manifest, uris), put_all, keep)

    def _publish(self, edition: Edition, put: Callable[[], object], keep: int) -> Edition:
        before = self.current()
        if before is not None and before.version == edition.version:
            self._end(None, before)
            return before
        self._replace(before, edition, keep, put)
        return edition

    def _put(self, file: Path, uri: str) -> None:
        self.store.put(uri, file)

    def put_back(self, edition: Edition, keep: int) -> None:
        """Publish an older edition again, and keep the one that it replaces."""
        before = self.current()
        if before == edition:
            self._end(None, edition)
            return
        place = self.manifest if edition.parts else self.uri
        copy = self.store.copy
        self._replace(before, edition, keep, lambda: copy(edition.uri, place))

    def _replace(
        self, before: Edition | None, edition: Edition, keep: int, put: Callable[[], object]
    ) -> None:
        if before is not None:
            self._keep(before)
        put()
        self._end(before, edition)
        self._prune(before, edition, keep)
        for folder in (self.uri.rpartition("/")[0] + "/", self.history):
            self.store.tidy(folder)

    def _end(self, before: Edition | None, edition: Edition) -> None:
        """Where there were parts before or are now: the manifest goes before the file, so that by
        its put, or by its end, everyone has the new edition at once."""
        if edition.parts:
            self.store.delete(self.uri)
        elif before is not None and before.parts:
            self.store.delete(self.manifest)

    def _keep(self, edition: Edition) -> None:
        kept = self.history + edition.name + (".json" if edition.parts else ".parquet")
        if self.store.head(kept) is None:
            self.store.copy(edition.uri, kept)

    def _prune(self, before: Edition | None, edition: Edition, keep: int) -> None:
        """Delete all but the newest older editions; what has just been replaced is the newest."""
        needed = [edition.name, *([before.name] if before else [])]
        others = [self._name(uri) for uri in self._entries().values()]
        others = [name for name in others if name not in needed]
        needed += others[: max(0, keep - (before is not None))]
        objects = [info.uri for info in self.store.list(self.history)]
        # What a manifest names has to be there as long as the manifest is.
        for uri in sorted(objects, key=lambda uri: uri.count("/")):
            if _IN_HISTORY.fullmatch(uri, len(self.history)) and self._name(uri) not in needed:
                self.store.delete(uri)

    def _entries(self) -> dict[int, str]:
        """The URIs of the history's files and manifests by number, the newest first."""
        found = {}
        for info in self.store.list(self.history):
            match = _IN_HISTORY.fullmatch(info.uri, len(self.history))
            if match and not match[3].startswith("/"):
                found[int(match[2])] = info.uri
        return dict(sorted(found.items(), reverse=True))

    def _name(self, uri: str) -> str:
        match = _IN_HISTORY.fullmatch(uri, len(self.history))
        return match[1] if match else ""

    def _edition(self, uri: str) -> Edition | None:
        """What lies there; None where nothing does."""
        try:
            if not uri.endswith(".json"):
                return Edition(told_in(self.store, uri), uri)
            manifest = json.loads(self.store.get(uri))
        except ObjectNotFoundError:
            return None
        parts = tuple(self.history + name for name in manifest["parts"])
        return Edition(manifest[ABOUT], uri, parts)


# The key of Parquet's own metadata under which a table says what it is, as a JSON object.
ABOUT = "batchrec"

# A put of S3's takes 5 GB. A larger table is several files of about this size.
MAX_BYTES = 4_000_000_000

# A footer is nearly always within so many bytes.
FOOTER = 64 * 1024


class TableFiles:
    """Writes a table as one Parquet file in a folder, or past `max_bytes` as several of that size.

    What the table says of itself may be known last: all files get it when they are ended.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.paths: list[Path] = []
        self._folder, self._max_bytes = folder, max_bytes
        self._open = ExitStack()
        self._writers: list[pq.ParquetWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def write(self, rows: pa.Table) -> None:
        """Add rows; all have the same columns."""
        if not self.paths or self.paths[-1].stat().st_size >= self._max_bytes:
            self.paths.append(self._folder / f"part-{len(self.paths):05}.parquet")
            writer = pq.ParquetWriter(self.paths[-1], rows.schema, compression="zstd")
            self._writers.append(self._open.enter_context(writer))
        self._writers[-1].write_table(rows)

    def end(self, about: Mapping[str, Any]) -> None:
        """No more rows; `about` is what the table says of itself."""
        for writer in self._writers:
            writer.add_key_value_metadata({ABOUT: json.dumps(about)})
        self._open.close()


def told_by(file: Path | IO[bytes]) -> dict[str, Any]:
    """What a table says of itself; empty where it says nothing."""
    told: dict[str, Any] = json.loads(
        (pq.read_metadata(file).metadata or {}).get(ABOUT.encode(), "{}")
    )
    return told


def told_in(store: ObjectStore, uri: str) -> dict[str, Any]:
    """The same, of a table in the storage, of which only the end is read, in one piece."""
    end = store.tail(uri, FOOTER)
    # A Parquet file ends in its footer, the footer's length and four letters.
    if (length := int.from_bytes(end[-8:-4], "little") + 8) > len(end):
        end = store.tail(uri, length)
    return told_by(io.BytesIO(end))
