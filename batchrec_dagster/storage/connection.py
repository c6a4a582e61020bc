"""The storage of a deployment (a folder or an S3 bucket), and the connection to AWS."""

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
from batchrec_dagster.storage.local_copies import open_object, remove_copies
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.permissions import explain_missing_settings, explain_refusals

# The bucket name that stands for a local folder, so that URIs have the same form everywhere.
LOCAL_BUCKET = "batchrec-local"
CLIENT_CONFIG = Config(
    retries={"mode": "adaptive", "total_max_attempts": 15}, connect_timeout=10, read_timeout=60
)


@dataclass(frozen=True)
class S3Connection:
    """The settings of the connection to S3.

    A setting that is None comes from AWS's own variables and files.
    """

    region_name: str | None = None
    profile_name: str | None = None
    endpoint_url: str | None = None
    """The URL of an S3 service other than AWS's."""
    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Storage:
    """The storage of all pipelines of a deployment: a folder, or a prefix in an S3 bucket."""

    root: str
    """The folder or s3://bucket/prefix of every pipeline's data."""
    s3: S3Connection = S3Connection()
    cache: str = ".batchrec/cache"
    """The folder that caches downloads."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The user's own tags for the resources that batchrec creates on AWS."""

    @property
    def in_s3(self) -> bool:
        """Whether the root is in S3 rather than a folder."""
        return self.root.startswith("s3://")

    @property
    def absolute_root(self) -> str:
        """The absolute path or URI of the root, which identifies the storage on this machine."""
        return self.root.rstrip("/") if self.in_s3 else str(Path(self.root).absolute())

    @cached_property
    def store(self) -> ObjectStore:
        folders = {} if self.in_s3 else {LOCAL_BUCKET: Path(self.root).absolute()}
        return ObjectStore(folders, lambda: self._session, self.s3.endpoint_url)

    def uri(self, key: str) -> str:
        """Return the URI of `key` under the root."""
        root = self.root.rstrip("/") if self.in_s3 else f"s3://{LOCAL_BUCKET}"
        return f"{root}/{key}"

    def where(self, uri: str) -> str:
        """Return the path to open on this machine, or the URI if the object is in S3."""
        return str(self.store.local_path(uri) or uri)

    @contextmanager
    def local_file(self, uri: str) -> Iterator[Path]:
        """Yield the path of a file on this machine with the object's content.

        In a folder, the file is the object itself. In S3, the file is a downloaded copy, which
        later steps read too.
        """
        path = self.store.local_path(uri)
        if path is not None:
            yield path
            return
        with open_object(self.store, self._copies, uri) as path:
            yield path

    def remove_copies(self, uri: str | None = None) -> None:
        """Remove this machine's copies of the object, or of all objects if `uri` is None."""
        remove_copies(self._copies, uri)

    def clear_cache(self) -> list[Path]:
        """Remove this machine's downloads and copies of objects.

        Return the files that stay because a process has them open.
        """
        folders = [folder for folder in Path(self.cache).glob("*") if folder.is_dir()]
        return [path for folder in folders for path in remove_copies(folder)]

    @property
    def _copies(self) -> Path:
        """The folder of copies of objects in S3."""
        return Path(self.cache) / "objects"

    def version(self, uri: str) -> str:
        """Return the version of the object's content."""
        return compute_version(self.store.chunks(uri))

    def client(
        self, service: str, endpoint: str | None = None, config: Config = CLIENT_CONFIG
    ) -> Any:
        """Return a boto3 client of a service, with the credentials and region of the storage.

        Raises UserError if there is no region, or if there are no credentials.
        """
        if service == "s3":
            endpoint = self.s3.endpoint_url
        try:
            session: Any = self._session  # The type stubs accept only literal service names.
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
