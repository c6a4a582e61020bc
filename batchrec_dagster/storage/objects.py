"""Objects by `s3://bucket/key` URI, in S3 buckets or in local folders that stand for buckets.

Every module names its data by such a URI, so that the same code works on a folder and on a bucket.
Puts are atomic: a reader sees the old object or the new one, never a part of one.
"""

from __future__ import annotations

import mmap
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import boto3
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import LocalStore, S3Store

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.buckets import (
    CHUNK_BYTES,
    MAX_PUT_BYTES,
    RETRIES,
    choose_upload,
    open_bucket,
)
from batchrec_dagster.storage.object_errors import (
    explain_object_error,
    is_missing_object,
    is_temporary,
)
from batchrec_dagster.storage.permissions import find_partition

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta


Answer = TypeVar("Answer")

# obstore's message for a broken connection.
_UNANSWERED = "error sending request"
# Seconds before this module repeats a request that obstore does not repeat.
_PAUSE = 0.1
# The ETag of an object that does not exist.
ABSENT = ""
# With these characters, a key could lead out of its folder, or would break a line of a message.
_NOT_IN_KEYS = re.compile(r"[\\\x00-\x1f\x7f]")


class ObjectNotFoundError(UserError):
    """There is no object at this URI."""


class ObjectReplacedError(Retry):
    """The object is not the version that was to be read or replaced."""


class DamagedObjectError(UserError):
    """An object that batchrec wrote is damaged: empty, cut or changed."""

    def __init__(self, where: str, reason: object, fix: str) -> None:
        super().__init__(f"{where} is damaged ({str(reason).partition(chr(10))[0]}): {fix}")


class ObjectInfo(NamedTuple):
    """An object in a listing: size in bytes, and an ETag that changes with the content."""

    uri: str
    size: int
    etag: str
    last_modified: datetime


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of an `s3://bucket/some/key` URI.

    The key may be empty or end in `/`.
    Raises UserError if the text is not an s3 URI, or if its key could leave the bucket's folder.
    """
    scheme, separator, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    if scheme != "s3" or not separator or not bucket:
        raise UserError(f"{uri!r} is not a storage URI: write s3://bucket/key")
    if {".", ".."} & {*key.split("/"), bucket} or _NOT_IN_KEYS.search(path):
        raise UserError(
            f"{uri!r} has a part that is not allowed in a storage URI (., .., \\ or a control"
            " character)"
        )
    # If a key that starts with a slash were joined to a folder, the path would ignore the folder.
    if "//" in f"/{key}":
        raise UserError(f"{uri!r} has an empty part: write one slash where there are two")
    return bucket, key


@dataclass(frozen=True)
class ObjectStore:
    """A store that reads and writes objects, in S3 or in local folders.

    Its methods raise UserError, and Retry if S3 cannot be reached or is overloaded.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    """The local folders that stand for buckets, by bucket name. Every other bucket is in S3."""
    session: Callable[[], boto3.Session] = boto3.Session
    """A function that makes the session with the credentials for S3, at the first use of S3."""
    endpoint_url: str | None = None
    """The URL of S3; None for AWS."""
    folder_mode: int = 0o700
    """The mode of new folders. Only this user may read the histories of people."""
    _stores: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def get(self, uri: str) -> bytes:
        """Return the whole object. Raises ObjectNotFoundError."""
        return self._read(uri, {})

    def tail(self, uri: str, length: int) -> bytes:
        """Return the last `length` bytes of the object, or the whole object if it is shorter.

        All bytes are from the same version of the object.
        """
        return self._read(uri, {"range": {"suffix": length}})

    def _read(self, uri: str, options: GetOptions) -> bytes:
        store, key = self._locate(uri)
        return self._ask(
            uri, "read", lambda: bytes(obstore.get(store, key, options=options).bytes())
        )

    def chunks(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        """Yield the object piece by piece, in bounded memory.

        etag: the ETag of the version to read. Raises ObjectReplacedError if the object has another
        ETag by now.
        """
        if etag is None and (path := self.local_path(uri)) is not None:
            # This takes a quarter of the CPU time of obstore, which reads larger pieces into new
            # memory.
            with self.explain_errors(uri, "read"):
                yield from durable.read_pieces(path)
            return
        store, key = self._locate(uri)
        options: GetOptions = {"if_match": etag} if etag else {}
        result = self._ask(uri, "read", partial(obstore.get, store, key, options=options))
        with self.explain_errors(uri, "read"):
            for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def download(self, uri: str, path: Path) -> None:
        """Copy the object to a local file. An existing file is overwritten."""
        with path.open("wb") as file:
            file.writelines(self.chunks(uri))

    def open(self, uri: str) -> BinaryIO:
        """Return the object as an open file, which does not change when the object is replaced."""
        path = self.local_path(uri)
        if path is not None:
            with self.explain_errors(uri, "read"):
                return path.open("rb")
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        file.writelines(self.chunks(uri))
        file.seek(0)
        return file

    def put(self, uri: str, data: bytes | Path | Iterable[bytes]) -> str:
        """Write an object from bytes, a local file or chunks, atomically, and return its ETag."""
        store, key = self._locate(uri)
        path = self.local_path(uri)
        with self.explain_errors(uri, "write"):
            if path is not None:
                self.make_folder(uri)
                durable.write(path, data)
                return str(obstore.head(store, key)["e_tag"] or "")
            upload = partial(obstore.put, store, key, data, **choose_upload(key, data))
            if isinstance(data, bytes | Path):
                return self._ask(uri, "write", upload)["e_tag"] or ""
            return upload()["e_tag"] or ""

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists, and return whether it was written.

        data: content that no other caller writes. It identifies the caller's own write if the
        answer to the put was lost.
        """
        try:
            self.replace(uri, data, ABSENT)
        except ObjectReplacedError:
            return False
        return True

    def replace(self, uri: str, data: bytes | Path, etag: str) -> str:
        """Write an object if its current ETag is the given one, and return the new ETag.

        data: content that no other caller writes. It identifies the caller's own write if the
            answer to the put was lost.
        etag: ABSENT if there must not be an object yet.
        Raises ObjectReplacedError if the object is another version by now.
        In a folder, another run may write between the check of the ETag and the write, unless the
        object is new. In S3, another run may do so if the object is too large for one put, even if
        it is new. In these cases, callers hold a lock that keeps other runs from writing.
        """
        store, key = self._locate(uri)
        replaced = ObjectReplacedError(f"{uri} was replaced by another run")
        path = self.local_path(uri)
        if path is not None or (isinstance(data, Path) and data.stat().st_size > MAX_PUT_BYTES):
            if etag != ABSENT and etag != self._read_etag(uri):
                raise replaced
            if path is None or etag != ABSENT:
                return self.put(uri, data)
            with self.explain_errors(uri, "write"):
                self.make_folder(uri)
                if not durable.write(path, data, replace=False):
                    raise replaced
            return self._read_etag(uri)
        mode: Any = {"e_tag": etag} if etag else "create"
        for _ in range(RETRIES["max_retries"]):
            try:
                with _open_buffer(data) as buffer:
                    upload = partial(obstore.put, store, key, buffer, mode=mode)
                    return self._ask(uri, "write", upload)["e_tag"] or ""
            except ObjectReplacedError:
                current = self._read_etag(uri)
                # The answer to an earlier attempt may have been lost.
                if current and self._has_content(uri, data):
                    return current
                # S3 may refuse both of two concurrent puts. The object then has its old ETag, and
                # this run tries again.
                if current != etag:
                    raise replaced from None
            time.sleep(_PAUSE)
        raise Retry(f"cannot write {uri}: S3 refuses the version that it says is there. Run again")

    def _read_etag(self, uri: str) -> str:
        info = self.head(uri)
        return info.etag if info else ABSENT

    def _has_content(self, uri: str, data: bytes | Path) -> bool:
        """Return whether the object has this content; False if there is no object."""
        pieces = [data] if isinstance(data, bytes) else durable.read_pieces(data)
        with suppress(ObjectNotFoundError):
            return durable.compute_sha256(self.chunks(uri)) == durable.compute_sha256(pieces)
        return False

    def copy(self, source: str, target: str) -> str:
        """Copy an object and return the copy's ETag.

        Within a bucket, S3 itself makes the copy, unless the object is too large for that.
        """
        path = self.local_path(source)
        (bucket, key), (target_bucket, target_key) = split_uri(source), split_uri(target)
        is_local = path is not None or self.local_path(target) is not None
        info = self.head(source)
        if is_local or bucket != target_bucket or (info and info.size > MAX_PUT_BYTES):
            return self.put(target, path or self.chunks(source))
        copy = partial(obstore.copy, self._bucket(bucket), key, target_key)
        self._ask(target, "write" if info else "read", copy)
        return self._read_etag(target)

    def head(self, uri: str) -> ObjectInfo | None:
        """Return the object's size and ETag; None if it does not exist."""
        store, key = self._locate(uri)
        with suppress(ObjectNotFoundError):
            return _read_info(uri, self._ask(uri, "read", partial(obstore.head, store, key)))
        return None

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return the objects with URIs that start with exactly `prefix`, in the order of URIs.

        As on S3, `s3://b/folder` also matches `s3://b/folder_test/x`: end a folder with `/`.
        """
        bucket, key = split_uri(prefix)
        store, folder = self._bucket(bucket), key.rpartition("/")[0] or None
        pages = self._ask(prefix, "list", lambda: [*obstore.list(store, folder)])
        return sorted(
            _read_info(f"s3://{bucket}/{meta['path']}", meta)
            for page in pages
            for meta in page
            if meta["path"].startswith(key)
        )

    def subfolders(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the folders in the folder `prefix`, which ends in `/`."""
        bucket, key = split_uri(prefix)
        list_folder = partial(obstore.list_with_delimiter, self._bucket(bucket), key or None)
        paths = self._ask(prefix, "list", list_folder)["common_prefixes"]
        return tuple(sorted(path.rstrip("/").rpartition("/")[2] for path in paths))

    def delete(self, uri: str) -> None:
        """Delete the object, if it exists."""
        store, key = self._locate(uri)
        with suppress(ObjectNotFoundError):
            self._ask(uri, "delete", partial(obstore.delete, store, key))

    def tidy(self, folder: str) -> None:
        """Delete the unfinished files that killed puts left in the folder.

        In S3, a lifecycle rule does that.
        """
        if path := self.local_path(folder):
            durable.remove_staged(path)

    def local_path(self, uri: str) -> Path | None:
        """Return the object's path on this machine; None if the object is in S3."""
        bucket, key = split_uri(uri)
        return self.folders[bucket] / key if bucket in self.folders else None

    def make_folder(self, uri: str) -> None:
        """Create the folder of the object at this URI. The bucket must be a local folder.

        Somebody may have deleted the folder of the whole bucket since it was opened.
        """
        bucket, key = split_uri(uri)
        folder = self.folders[bucket]
        durable.make_folders(folder, self.folder_mode)
        durable.make_folders((folder / key).parent)

    @cached_property
    def _session(self) -> boto3.Session:
        return self.session()

    def _locate(self, uri: str) -> tuple[LocalStore | S3Store, str]:
        """Return the opened bucket of an object, and the object's key.

        Raises UserError for a folder.
        """
        bucket, key = split_uri(uri)
        if not key or key.endswith("/"):
            raise UserError(f"{uri!r} names a folder, not an object")
        return self._bucket(bucket), key

    def _bucket(self, bucket: str) -> LocalStore | S3Store:
        """Return the bucket or folder with this name. It is opened only once."""
        if bucket not in self._stores:
            folder = self.folders.get(bucket)
            self._stores[bucket] = (
                open_bucket(bucket, self._session, self.endpoint_url)
                if folder is None
                else self._open_folder(folder)
            )
        return self._stores[bucket]  # type: ignore[no-any-return]

    def _open_folder(self, folder: Path) -> LocalStore:
        """Open the folder that stands for a bucket, and make it if it is missing.

        Raises UserError.
        """
        try:
            durable.make_folders(folder, self.folder_mode)
            return LocalStore(folder)
        except (OSError, BaseError) as error:
            reason = getattr(error, "strerror", None) or error
            if isinstance(error, FileExistsError):
                reason = "Not a directory"
            raise UserError(
                f"cannot make the folder {folder}: {reason}; let no file be in its place, and let"
                " this user write there"
            ) from error

    def _ask(self, uri: str, verb: str, request: Callable[[], Answer]) -> Answer:
        """Return the answer to a request of obstore. Repeat the request while connections break.

        obstore itself does not repeat a request that might then run twice. It also does not repeat
        some requests if the connection breaks just as the answer begins to arrive.

        verb: the operation on the object: read, write, list or delete.
        """
        deadline = time.monotonic() + RETRIES["retry_timeout"].total_seconds()
        with self.explain_errors(uri, verb):
            while True:
                try:
                    return request()
                except GenericError as error:
                    if _UNANSWERED not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(_PAUSE)

    @contextmanager
    def explain_errors(self, uri: str, verb: str) -> Iterator[None]:
        """Turn errors in the block into UserErrors that say what to do.

        verb: the operation on the object: read, write, list or delete.
        """
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            # The message is for reads: `replace` has its own message for refused puts.
            message = f"{uri} was replaced while this run read it: run again"
            raise ObjectReplacedError(message) from error
        except (OSError, BaseError) as error:
            if is_missing_object(error, verb):
                message = f"cannot {verb} {uri}: there is no such object"
                raise ObjectNotFoundError(message) from error
            path = self.local_path(uri)
            message = explain_object_error(error, uri, verb, path, lambda: self._arn)
            raise (Retry if is_temporary(error) else UserError)(message) from error

    @property
    def _arn(self) -> str:
        """The text that ARNs of buckets begin with."""
        return f"arn:{find_partition(self._session.region_name)}:s3:::"


@contextmanager
def _open_buffer(data: bytes | Path) -> Iterator[bytes | mmap.mmap]:
    """Yield the content as one buffer. A file is mapped, not read into memory as a whole."""
    if isinstance(data, bytes) or not data.stat().st_size:
        yield data if isinstance(data, bytes) else b""
        return
    with data.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        yield buffer


def _read_info(uri: str, meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(uri, meta["size"], meta["e_tag"] or "", meta["last_modified"])
