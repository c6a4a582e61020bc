"""The Dagster resource with the boto3 `personalize` client of this deployment."""

from __future__ import annotations

import logging
import os
import random
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from botocore.exceptions import ConnectionClosedError
from pydantic import Field

from batchrec_dagster.local_personalize.api.client import Quotas, embedded_client
from batchrec_dagster.personalize.batch_files import MAX_RESULTS
from batchrec_dagster.personalize.ensure import STORAGE_TAG, Ensure
from batchrec_dagster.personalize.schemas import FILTER_HISTORY
from batchrec_dagster.storage.resource import StorageResource

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient


EMBEDDED = "embedded"
AWS = "aws"

# The embedded Personalize checks only the form of the ARN: it reads the storage itself.
LOCAL_ROLE_ARN = "arn:aws:iam::000000000000:role/batchrec-local"

# How often a long wait logs its status.
HEARTBEAT_SECONDS = 60
# Results for each user that the embedded one gives; AWS gives MAX_RESULTS.
MOST_LOCALLY = 1_000_000

# Of responses that came incomplete.
ATTEMPTS = 15
LONGEST_PAUSE = 20.0  # seconds


class PersonalizeResource(dg.ConfigurableResource[Any]):
    """Amazon Personalize, or the local one: the pipeline uses a boto3 client either way.

    Its configuration is the deployment's: BATCHREC_PERSONALIZE and the variables with it. home: the
    folder of the embedded one's catalogue, data and models.
    """

    endpoint: str = EMBEDDED
    home: str = ".batchrec/personalize"
    quotas: list[str] = Field(default=[])
    role_arn: str = LOCAL_ROLE_ARN
    poll_seconds: float = Field(default=0.2, gt=0)
    busy_seconds: float = Field(default=300, gt=0)
    deadline_hours: float = Field(default=24, gt=0)
    storage: StorageResource

    @property
    def on_aws(self) -> bool:
        """Whether it is AWS's own, which costs money."""
        return self.endpoint == AWS

    @cached_property
    def client(self) -> PersonalizeClient:
        if self.endpoint == EMBEDDED:
            return embedded_client(
                Path(self.home).absolute(), self.storage.store, quotas=Quotas.parse(self.quotas)
            )
        endpoint = None if self.on_aws else self.endpoint
        client: PersonalizeClient = self.storage.client("personalize", endpoint)
        retry_truncated_responses(client)
        return client

    @property
    def storage_tag(self) -> str:
        """The deployment's storage root, as a tag. All folders have one bucket's name: one that is
        not next to the embedded Personalize's home has its path from there, too. Both can be moved
        together."""
        root = self.storage.uri("")
        if self.storage.in_s3 or self.endpoint != EMBEDDED:
            return root
        path = os.path.relpath(self.storage.root, self.home)
        if Path(path) == Path("../storage"):
            return root
        # Of the characters and the length that a tag may have.
        return root + re.sub(r"[^\w .:/=+@-]", "_", path)[-200:]

    def ensure(self, log: logging.Logger, tags: dict[str, str]) -> Ensure:
        """What finds, adopts or creates resources and waits for them; new ones get these tags."""
        return Ensure(
            client=self.client,
            log=log,
            tags={**tags, STORAGE_TAG: self.storage_tag},
            poll_seconds=self.poll_seconds,
            busy_seconds=self.busy_seconds,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            deadline_seconds=self.deadline_hours * 3600,
            role_arn=self.role_arn,
            max_results=MOST_LOCALLY if self.endpoint == EMBEDDED else MAX_RESULTS,
            filter_interactions=(
                Quotas.parse(self.quotas).filter_interactions
                if self.endpoint == EMBEDDED
                else FILTER_HISTORY
            ),
            on_aws=self.on_aws,
        )


def retry_truncated_responses(client: Any) -> None:
    """Make the boto3 client retry a response that is shorter than its Content-Length, and raise
    ConnectionClosedError after the last attempt.

    botocore reads with `enforce_content_length=False` and takes what arrived for the whole: a list
    without its members, a creation without its ARN.
    """
    client.meta.events.register("needs-retry", _pause_if_truncated)


def _pause_if_truncated(response: Any, attempts: int, **_: Any) -> float | None:
    """Seconds before the next attempt; None for a complete response, or none at all."""
    announced = response and response[0].headers.get("Content-Length")
    if announced is None or len(response[0].content) == int(announced):
        return None
    if attempts >= ATTEMPTS:
        raise ConnectionClosedError(endpoint_url=response[0].url)
    return random.uniform(0, min(LONGEST_PAUSE, 0.1 * 2**attempts))  # noqa: S311
