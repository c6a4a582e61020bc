"""A boto3 client for a local Personalize in this process. All that other packages import from here.

boto3 serialises requests and parses responses as on AWS; botocore's `before-send` event replaces
the network.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.loaders import create_loader
from urllib3 import HTTPResponse

from batchrec_dagster.storage.object_store import ObjectStore

from ..catalog.quotas import QUOTAS_VARIABLE, Quotas
from ..catalog.requests import ACCOUNT_ID
from ..errors import CatalogError

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

    from ..jobs.pace import JobPace
    from .service import LocalPersonalize

__all__ = ["QUOTAS_VARIABLE", "CatalogError", "Quotas", "embedded_client", "make_client"]

# The client ignores this machine's AWS configuration, which may be missing or broken.
_SESSION = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
# Each session parses botocore's description of Personalize anew, unless it gets this loader.
_LOADER = create_loader()
_ENDPOINT = "http://personalize.localhost"


def embedded_client(
    home: Path,
    store: ObjectStore,
    *,
    region: str = "us-east-1",
    account: str = ACCOUNT_ID,
    quotas: Quotas | None = None,
    pace: JobPace | None = None,
    v2_lines: bool = False,
) -> PersonalizeClient:
    """A `personalize` client for the local Personalize in the folder `home`.

    Data is read and written through `store`. Jobs run in threads of this process; the next client
    on this home resumes unfinished ones.
    """
    # What trains is imported only where a Personalize runs, not where pipelines are loaded.
    from .service import LocalPersonalize

    service = LocalPersonalize(
        home, store, region=region, account=account, quotas=quotas, pace=pace, v2_lines=v2_lines
    )
    return make_client(service)


def make_client(service: LocalPersonalize) -> PersonalizeClient:
    """A `personalize` client for a running local Personalize."""
    from .service import answer

    def respond(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        target = request.headers.get("X-Amz-Target", b"")
        text = target.decode("latin-1") if isinstance(target, bytes) else target
        status, content, headers = answer(service.call, text, _encode_body(request.body))
        raw = HTTPResponse(BytesIO(content), preload_content=False)
        return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), raw)

    session = botocore.session.Session(session_vars=_SESSION)
    session.register_component("data_loader", _LOADER)
    client = cast(
        "PersonalizeClient",
        session.create_client(
            "personalize",
            region_name=service.region,
            endpoint_url=_ENDPOINT,
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 (nobody checks the signature)
            # A retry would get the same answer from this process.
            config=Config(retries={"mode": "legacy", "total_max_attempts": 1}, proxies={}),
        ),
    )
    client.meta.events.register("before-send.personalize", cast(Any, respond))
    return client


def _encode_body(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")
