"""The storage of a deployment, a folder or an S3 bucket, and how AWS is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.durable import compute_version
from batchrec_dagster.storage.local_copies import open_copy, remove_copies
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.permissions import explain_missing_settings, explain_refusals

# The bucket name of a folder, so that a pipeline names its data the same way everywhere.
LOCAL_BUCKET = "batchrec-local"
CLIENT_CONFIG = Config(
    retries={"mode": "adaptive", "total_max_attempts": 15}, connect_timeout=10, read_timeout=60
)


@dataclass(frozen=True)
class S3Connection:
    """How to reach S3. What is not set comes from AWS's own variables and files."""

    region_name: str | None = None
    profile_name: str | None = None
    endpoint_url: str | None = None
    """The URL of another S3."""
    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Storage:
    """The storage root."""

    root: str
    """The folder or s3://bucket/prefix of every pipeline's data."""
    s3: S3Connection = S3Connection()
    cache: str = ".batchrec/cache"
    """The folder that caches downloads."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of one's own for what the clients of AWS create."""

    @property
    def in_s3(self) -> bool:
        """Whether the root is in S3 rather than a folder."""
        return self.root.startswith("s3://")

    @property
    def absolute_root(self) -> str:
        """The root, which no other storage of this machine has."""
        return self.root.rstrip("/") if self.in_s3 else str(Path(self.root).absolute())

    @cached_property
    def store(self) -> ObjectStore:
        folders = {} if self.in_s3 else {LOCAL_BUCKET: Path(self.root).absolute()}
        return ObjectStore(folders, lambda: self._session, self.s3.endpoint_url)

    def uri(self, key: str) -> str:
        """The URI of `key` under the root."""
        root = self.root.rstrip("/") if self.in_s3 else f"s3://{LOCAL_BUCKET}"
        return f"{root}/{key}"

    def where(self, uri: str) -> str:
        """The path to open on this machine, or the URI if the object is in S3."""
        return str(self.store.local_path(uri) or uri)

    @contextmanager
    def local_file(self, uri: str) -> Iterator[Path]:
        """The object as a file on this machine: itself, or a copy if it is in S3, which later steps
        read too."""
        path = self.store.local_path(uri)
        if path is not None:
            yield path
            return
        with open_copy(self.store, self._copies, uri) as path:
            yield path

    def remove_copies(self, uri: str | None = None) -> None:
        """Remove the copies on this machine of the object, or of all objects."""
        remove_copies(self._copies, uri)

    @property
    def _copies(self) -> Path:
        """The folder of copies of objects in S3."""
        return Path(self.cache) / "objects"

    def version(self, uri: str) -> str:
        """The version of the object's content."""
        return compute_version(self.store.chunks(uri))

    def client(
        self, service: str, endpoint: str | None = None, config: Config = CLIENT_CONFIG
    ) -> Any:
        """A boto3 client of any service, with the same credentials and region.

        Raises UserError if there is no region, or if there are no credentials.
        """
        if service == "s3":
            endpoint = self.s3.endpoint_url
        try:
            session: Any = self._session  # The type stubs only know literal names.
            client = session.client(service, endpoint_url=endpoint, config=config)
            if session.get_credentials() is None:
                raise NoCredentialsError
        except BotoCoreError as error:
            fix = explain_missing_settings(error)
            if fix is None:
                raise
            raise UserError(f"cannot use {service}: {fix}") from error
        if service != "s3":
            explain_refusals(client)
        return client

    @cached_property
    def _session(self) -> boto3.Session:
        settings = asdict(self.s3)
        del settings["endpoint_url"]
        return boto3.Session(**settings)
