"""Objects by `s3://bucket/key` URI, in S3 buckets or in local folders that stand for buckets.

Every module names its data by such a URI, so that the same code runs on a folder and on a bucket.
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
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.permissions import (
    explain_credentials_error,
    explain_missing_permission,
    find_partition,
    is_denied,
)

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutResult
    from obstore.store import RetryConfig


Answer = TypeVar("Answer")

MB = 1024 * 1024
CHUNK_BYTES = 8 * MB
# S3's limit for a multipart upload: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PARTS = 10_000
# Bytes of memory an upload uses: the larger its parts, the fewer it sends at the same time.
BUFFER_BYTES = 12 * CHUNK_BYTES
# Outlasts minutes of throttling, server errors and broken connections. Each pause is random, up to
# `base` times the last: with the usual 2 the pauses would not grow.
RETRIES: RetryConfig = {
    "max_retries": 100,
    "retry_timeout": timedelta(minutes=5),
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=10),
        "base": 4,
    },
}
# obstore's message for a broken connection.
_UNANSWERED = "error sending request"
# Seconds before this module repeats a request that obstore does not repeat.
_PAUSE = 0.1
CLIENT_CONFIG = Config(
    retries={"mode": "adaptive", "total_max_attempts": 15}, connect_timeout=10, read_timeout=60
)
# The permission for each verb of a message.
IAM_ACTIONS = {
    "read": "GetObject",
    "write": "PutObject",
    "list": "ListBucket",
    "delete": "DeleteObject",
}
HTML = {"Content-Type": "text/html; charset=utf-8"}


# The ETag of an object that does not exist.
ABSENT = ""
# What the system says of a full disk.
NO_SPACE = "No space left on device"


class ObjectNotFoundError(UserError):
    """There is no object at this URI."""


class ObjectReplacedError(UserError):
    """An object is not the version that should have been read or replaced."""


class DamagedObjectError(UserError):
    """An object of batchrec's own is not what batchrec wrote: empty, cut or changed."""

    def __init__(self, where: str, reason: object, fix: str) -> None:
        super().__init__(f"{where} is damaged ({str(reason).partition(chr(10))[0]}): {fix}")


class ObjectInfo(NamedTuple):
    """An object in a listing: size in bytes, and an ETag that changes with the content."""

    uri: str
    size: int
    etag: str
    last_modified: datetime


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/key` -> `("bucket", "some/key")`; the key may be empty or end in `/`.

    Raises UserError if it is not an s3 URI, or its key could leave the bucket's folder.
    """
    scheme, separator, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    if scheme != "s3" or not separator or not bucket:
        raise UserError(f"{uri!r} is not a storage URI: write s3://bucket/key")
    # Joined to a folder, a key that starts with a slash would be a path of the whole machine.
    if {".", ".."} & {*key.split("/"), bucket} or "\\" in key or "\0" in key:
        raise UserError(f"{uri!r} has a part that is not allowed in a storage URI (., .. or \\)")
    if "//" in f"/{key}":
        raise UserError(f"{uri!r} has an empty part: write one slash where there are two")
    return bucket, key


def choose_part_size(size: int) -> int:
    """The bytes of each part of a multipart put of `size` bytes: whole MB, at most MAX_PARTS
    parts."""
    return max(CHUNK_BYTES, -(-size // (MAX_PARTS * MB)) * MB)


@dataclass(frozen=True)
class ObjectStore:
    """Reads and writes objects, in S3 or in local folders."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    """The local folder of each bucket that is one. Every other bucket is in S3."""
    session: Callable[[], boto3.Session] = boto3.Session
    """Makes the session with the credentials of S3, when it is first used."""
    endpoint_url: str | None = None
    """Where S3 is, if not at AWS."""
    folder_mode: int = 0o700
    """The mode of folders that are created. Only this user may read the histories of people."""
    _stores: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def get(self, uri: str) -> bytes:
        """The whole object. Raises ObjectNotFoundError, UserError."""
        return self._read(uri, {})

    def tail(self, uri: str, length: int) -> bytes:
        """The last bytes of the object, at most `length`, all of one version."""
        return self._read(uri, {"range": {"suffix": length}})

    def read_range(self, uri: str, start: int, length: int, etag: str) -> bytes:
        """`length` bytes of the object from byte `start` on, counted from 0.

        Raises UserError if the object no longer has this `etag`.
        """
        return self._read(uri, {"range": (start, start + length), "if_match": etag})

    def _read(self, uri: str, options: GetOptions) -> bytes:
        store, key = self._locate(uri)
        with self.explain_errors(uri, "read"):
            return _retry_until_answered(
                lambda: bytes(obstore.get(store, key, options=options).bytes())
            )

    def chunks(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        """Yield the object piece by piece, in bounded memory.

        etag: of the version to read. Raises UserError if the object has another by now.
        """
        if etag is None and (path := self.local_path(uri)) is not None:
            # Takes a quarter of obstore's CPU time, which reads larger pieces into new memory.
            with self.explain_errors(uri, "read"), path.open("rb") as file:
                yield from iter(partial(file.read, MB), b"")
            return
        store, key = self._locate(uri)
        options: GetOptions = {"if_match": etag} if etag else {}
        try:
            with self.explain_errors(uri, "read"):
                for chunk in obstore.get(store, key, options=options).stream(
                    min_chunk_size=CHUNK_BYTES
                ):
                    yield bytes(chunk)
        except UserError as error:
            if isinstance(error.__cause__, PreconditionError):
                raise ObjectReplacedError(
                    f"{uri} was replaced while this run read it: run again"
                ) from error
            raise

    def download(self, uri: str, path: Path) -> None:
        """Copy the object to a local file, which is overwritten."""
        with path.open("wb") as file:
            file.writelines(self.chunks(uri))

    def open(self, uri: str) -> BinaryIO:
        """The object as an open file, which does not change when the object is replaced."""
        path = self.local_path(uri)
        if path is not None:
            with self.explain_errors(uri, "read"):
                return path.open("rb")
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        file.writelines(self.chunks(uri))
        file.seek(0)
        return file

    def put(self, uri: str, data: bytes | Path | Iterable[bytes]) -> str:
        """Write an object from bytes, a local file or chunks, atomically. Returns its ETag."""
        store, key = self._locate(uri)
        path = self.local_path(uri)
        with self.explain_errors(uri, "write"):
            if path is not None:
                self.make_folder(uri)
                durable.write(path, data)
                return str(obstore.head(store, key)["e_tag"] or "")
            return _upload(store, key, data)["e_tag"] or ""

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether it was written.

        `data` must be unique to the caller: they identify its own write if the answer was lost.
        """
        try:
            self.replace(uri, data, ABSENT)
        except ObjectReplacedError:
            return False
        return True

    def replace(self, uri: str, data: bytes | Path, etag: str) -> str:
        """Write an object if it still is the version with this ETag, and return the new ETag.

        data: unique to the caller, as for `create`.
        etag: ABSENT if there must not be an object yet.
        Raises ObjectReplacedError if the object is another version by now. In a folder only a new
        object is created atomically: there a lock keeps other runs from writing at the same time.
        """
        store, key = self._locate(uri)
        path = self.local_path(uri)
        if path is not None:
            is_expected = etag == ABSENT or etag == self._read_etag(uri)
            with self.explain_errors(uri, "write"):
                self.make_folder(uri)
                if not is_expected or not durable.write(path, data, replace=etag != ABSENT):
                    raise ObjectReplacedError(f"{path} was replaced by another run")
                return str(obstore.head(store, key)["e_tag"] or "")
        mode: Any = {"e_tag": etag} if etag else "create"
        for _ in range(RETRIES["max_retries"]):
            with self.explain_errors(uri, "write"), _open_buffer(data) as buffer:
                try:
                    put = partial(obstore.put, store, key, buffer, mode=mode)
                    result = _retry_until_answered(put)
                    return str(result["e_tag"] or "")
                except (AlreadyExistsError, NotFoundError, PreconditionError) as error:
                    # S3 also refuses two concurrent attempts that both failed.
                    current = self._read_etag(uri)
                    if current != etag:
                        # The answer to an earlier attempt may have been lost.
                        if current and self._has_content(uri, data):
                            return current
                        raise ObjectReplacedError(f"{uri} was replaced by another run") from error
            time.sleep(_PAUSE)
        raise UserError(f"cannot write {uri}: S3 refuses the version that it says is there")

    def _read_etag(self, uri: str) -> str:
        info = self.head(uri)
        return info.etag if info else ABSENT

    def _has_content(self, uri: str, data: bytes | Path) -> bool:
        pieces = [data] if isinstance(data, bytes) else durable.read_pieces(data)
        with suppress(ObjectNotFoundError):
            return durable.compute_sha256(self.chunks(uri)) == durable.compute_sha256(pieces)
        return False

    def copy(self, source: str, target: str) -> str:
        """Copy an object, within S3 on the server. Returns the copy's ETag."""
        path = self.local_path(source)
        if path is not None or self.local_path(target) is not None:
            return self.put(target, path or self.chunks(source))
        (bucket, key), (target_bucket, target_key) = split_uri(source), split_uri(target)
        session: Any = self._session
        copy_result: dict[str, Any] = {}

        def keep_result(parsed: dict[str, Any], **_: Any) -> None:
            copy_result.update(parsed.get("CopyObjectResult", parsed))

        with self.explain_errors(target, "write"):
            try:
                s3 = session.client("s3", endpoint_url=self.endpoint_url, config=CLIENT_CONFIG)
                # `copy` copies a large object in parts and does not return the response.
                for operation in ("CopyObject", "CompleteMultipartUpload"):
                    s3.meta.events.register(f"after-call.s3.{operation}", keep_result)
                s3.copy({"Bucket": bucket, "Key": key}, target_bucket, target_key)
            except (ClientError, BotoCoreError) as error:
                if isinstance(error, ClientError) and is_denied(error):
                    read = f"s3:GetObject on {self._arn}{bucket}/{key} and s3:PutObject"
                    fix = explain_missing_permission(
                        read, f"{self._arn}{target_bucket}/{target_key}", str(error)
                    )
                    raise UserError(f"cannot copy {source} to {target}: {fix}") from error
                raise UserError(f"cannot copy {source} to {target}: {error}") from error
        # Some servers omit the quotes here.
        return '"{}"'.format(copy_result.get("ETag", "").strip('"'))

    def head(self, uri: str) -> ObjectInfo | None:
        """The object's size and ETag; None if it does not exist."""
        store, key = self._locate(uri)
        try:
            with self.explain_errors(uri, "read"):
                meta = _retry_until_answered(lambda: obstore.head(store, key))
        except ObjectNotFoundError:
            return None
        return _read_info(uri, meta)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """The objects whose URI starts with exactly `prefix`, in order of URI.

        As on S3, `s3://b/folder` also matches `s3://b/folder_test/x`: end a folder with `/`.
        """
        bucket, key = split_uri(prefix)
        folder = key.rpartition("/")[0]
        with self.explain_errors(prefix, "list"):
            infos = [
                _read_info(f"s3://{bucket}/{meta['path']}", meta)
                for page in obstore.list(self._bucket(bucket), folder or None)
                for meta in page
                if meta["path"].startswith(key)
            ]
        return sorted(infos)

    def subfolders(self, prefix: str) -> tuple[str, ...]:
        """The names of the folders in the folder `prefix`, which ends in `/`."""
        bucket, key = split_uri(prefix)
        with self.explain_errors(prefix, "list"):
            listing = obstore.list_with_delimiter(self._bucket(bucket), key or None)
        names = (path.rstrip("/").rpartition("/")[2] for path in listing["common_prefixes"])
        return tuple(sorted(names))

    def delete(self, uri: str) -> None:
        """Delete the object, if it exists."""
        store, key = self._locate(uri)
        try:
            with self.explain_errors(uri, "delete"):
                _retry_until_answered(lambda: obstore.delete(store, key))
        except ObjectNotFoundError:
            pass

    def tidy(self, folder: str) -> None:
        """Delete the unfinished files that killed puts left in the folder.

        In S3 a lifecycle rule does that.
        """
        if path := self.local_path(folder):
            durable.remove_staged(path)

    def local_path(self, uri: str) -> Path | None:
        """The object's path on this machine; None if it is in S3."""
        bucket, key = split_uri(uri)
        return self.folders[bucket] / key if bucket in self.folders else None

    @cached_property
    def _session(self) -> boto3.Session:
        return self.session()

    def _bucket(self, bucket: str) -> LocalStore | S3Store:
        if bucket not in self._stores:
            self._stores[bucket] = self._open(bucket)
        return self._stores[bucket]  # type: ignore[no-any-return]

    def _open(self, bucket: str) -> LocalStore | S3Store:
        if bucket in self.folders:
            folder = self.folders[bucket]
            try:
                durable.make_folders(folder, self.folder_mode)
                return LocalStore(folder)
            except (OSError, BaseError) as error:
                reason = getattr(error, "strerror", None) or error
                if isinstance(error, FileExistsError):
                    reason = "Not a directory"
                raise UserError(
                    f"cannot make the folder {folder}: {reason}; let no file be in its place, and"
                    " let this user write there"
                ) from error
        session = self._session
        if session.get_credentials() is None:
            raise UserError(
                f"no AWS credentials found for s3://{bucket}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
                " and AWS_SECRET_ACCESS_KEY"
            )
        # Omitted for AWS, as obstore accepts no None. Under this name, no variable overrides it.
        name = "aws_endpoint_url_s3"
        endpoint: dict[str, Any] = {name: self.endpoint_url} if self.endpoint_url else {}
        return S3Store(
            bucket,
            region=session.region_name or "us-east-1",
            client_options={
                "allow_http": bool(self.endpoint_url),
                "connect_timeout": "10s",
                # For each read, so that a large object may take hours.
                "read_timeout": "60s",
                "timeout": "24h",
            },
            retry_config=RETRIES,
            # botocore renews credentials before they expire, so ask it each time.
            credential_provider=Boto3CredentialProvider(session, ttl=timedelta(0)),
            **endpoint,
        )

    def make_folder(self, uri: str) -> None:
        """Create the folder that the object at this URI is in, where a folder is the bucket.

        Somebody may have deleted the folder of the whole bucket since it was opened.
        """
        bucket, key = split_uri(uri)
        folder = self.folders[bucket]
        durable.make_folders(folder, self.folder_mode)
        durable.make_folders((folder / key).parent)

    @property
    def _arn(self) -> str:
        return f"arn:{find_partition(self._session.region_name)}:s3:::"

    @contextmanager
    def explain_errors(self, uri: str, verb: str) -> Iterator[None]:
        """A context whose errors become UserErrors that say what to do.

        verb: what is done with the object: read, write, list or delete.
        """
        try:
            yield
        except (OSError, BaseError) as error:
            path = self.local_path(uri)
            if path is not None and isinstance(error, (PermissionError, PermissionDeniedError)):
                raise UserError(
                    f"cannot {verb} {path}: permission denied; let this user {verb} there"
                ) from error
            if NO_SPACE in str(error):
                raise UserError(
                    f"cannot {verb} {path or uri}: {NO_SPACE}; free some space. `batchrec check`"
                    " names the disks"
                ) from error
            raise _explain_error(uri, verb, error, lambda: self._arn) from error

    def _locate(self, uri: str) -> tuple[LocalStore | S3Store, str]:
        bucket, key = split_uri(uri)
        if not key or key.endswith("/"):
            raise UserError(f"{uri!r} names a folder, not an object")
        return self._bucket(bucket), key


def _upload(
    store: LocalStore | S3Store, key: str, data: bytes | Path | Iterable[bytes]
) -> PutResult:
    """Put an object into a bucket, in parts if it is large or its size is not known."""
    if isinstance(data, bytes):
        # Browsers show an object with this type and download any other.
        options: dict[str, Any] = {"attributes": HTML} if key.endswith(".html") else {}
        is_large = len(data) > CHUNK_BYTES
        return obstore.put(store, key, data, use_multipart=is_large, **options)
    part_bytes = CHUNK_BYTES
    if isinstance(data, Path):
        size = data.stat().st_size
        if size <= CHUNK_BYTES:
            return obstore.put(store, key, data.read_bytes(), use_multipart=False)
        part_bytes = choose_part_size(size)
    concurrency = max(1, BUFFER_BYTES // part_bytes)
    return obstore.put(store, key, data, chunk_size=part_bytes, max_concurrency=concurrency)


@contextmanager
def _open_buffer(data: bytes | Path) -> Iterator[bytes | mmap.mmap]:
    """The content as one buffer, which for a file is not in memory as a whole."""
    if isinstance(data, bytes) or not data.stat().st_size:
        yield data if isinstance(data, bytes) else b""
        return
    with data.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        yield buffer


def _read_info(uri: str, meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(uri, meta["size"], meta["e_tag"] or "", meta["last_modified"])


def _retry_until_answered(attempt: Callable[[], Answer]) -> Answer:
    """The answer of an attempt, which is repeated while connections break.

    obstore does not repeat a request that might then run twice, nor each that is cut while the
    answer to it begins.
    """
    deadline = time.monotonic() + RETRIES["retry_timeout"].total_seconds()
    while True:
        try:
            return attempt()
        except GenericError as error:
            if _UNANSWERED not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def _explain_error(uri: str, verb: str, error: Exception, arn: Callable[[], str]) -> UserError:
    """The error in one line, with what to do.

    To obstore a refused listing is a generic error, and only the server's answer distinguishes a
    missing bucket from a missing object.

    verb: as in `ObjectStore.explain_errors`.
    arn: returns what the ARNs of buckets begin with.
    """
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    credentials_fix = explain_credentials_error(code[1], text) if code else None
    if credentials_fix:
        return UserError(f"cannot {verb} {uri}: permission denied; {credentials_fix}")
    missing = isinstance(error, (FileNotFoundError, NotFoundError)) or "404 Not Found" in text
    if missing and (verb in ("write", "list") or "NoSuchBucket" in text):
        bucket, _ = split_uri(uri)
        return UserError(
            f"cannot {verb} {uri}: there is no bucket {bucket}: create it, or fix its name"
        )
    if missing:
        return ObjectNotFoundError(f"cannot {verb} {uri}: there is no such object")
    if (
        isinstance(error, (PermissionError, PermissionDeniedError, UnauthenticatedError))
        or "403 Forbidden" in text
        or "AccessDenied" in text
    ):
        bucket, key = split_uri(uri)
        place = f"{arn()}{bucket}" + ("" if verb == "list" else f"/{key}")
        fix = explain_missing_permission(f"s3:{IAM_ACTIONS[verb]}", place, text)
        if verb == "read":
            fix += f" and s3:ListBucket on {arn()}{bucket}"
        return UserError(f"cannot {verb} {uri}: {fix}")
    return UserError(f"cannot {verb} {uri}: {text.partition(chr(10))[0]}")
