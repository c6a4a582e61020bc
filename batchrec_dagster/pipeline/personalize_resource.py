"""The Dagster resource with the boto3 `personalize` client of this deployment."""

from __future__ import annotations

import logging
import os
import re
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config.environment import AWS, EMBEDDED, LOCAL_ROLE_ARN
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.personalize.api import STORAGE_TAG
from batchrec_dagster.personalize.formats import MAX_RESULTS
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.personalize.resources import Resources
from batchrec_dagster.personalize.retries import correct_retries
from batchrec_dagster.personalize.schemas import FILTER_HISTORY
from batchrec_dagster.pipeline.storage_resource import StorageResource

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

# The seconds between two log messages about the status of a long wait.
HEARTBEAT_SECONDS = 60
# The largest number of items that the embedded Personalize lists for a user. AWS lists at most
# MAX_RESULTS.
MAX_RESULTS_EMBEDDED = 1_000_000

# Filters of the embedded Personalize consider all interactions of a user. AWS's filters consider
# only FILTER_HISTORY of them. With that limit, each list would have to be longer by the longest
# history, so that enough items are left after the seen items are removed.
ALL_INTERACTIONS = 2**62


class PersonalizeResource(dg.ConfigurableResource[Any]):
    """Amazon Personalize or a local Personalize. The pipeline uses a boto3 client for either.

    The fields have the values of the deployment's settings, such as BATCHREC_PERSONALIZE.
    """

    endpoint: str = EMBEDDED
    """EMBEDDED, AWS, or the URL of a server."""
    home: str = ".batchrec/personalize"
    """The folder of the embedded Personalize's catalogue, data and models."""
    role_arn: str = LOCAL_ROLE_ARN
    prices: str = ""
    """The path of a file with other prices; empty for the default prices."""
    poll_seconds: float = Field(default=0.2, gt=0)
    busy_seconds: float = Field(default=300, gt=0)
    deadline_hours: float = Field(default=24, gt=0)
    storage: StorageResource

    @property
    def on_aws(self) -> bool:
        """Whether this is Amazon's service, which costs money."""
        return self.endpoint == AWS

    @cached_property
    def client(self) -> PersonalizeClient:
        """The boto3 client.

        The client of AWS or of a server retries requests with truncated responses, but not requests
        that a quota refuses.
        """
        if self.endpoint == EMBEDDED:
            return embedded_client(
                Path(self.home).absolute(),
                self.storage.opened.store,
                filter_interactions=ALL_INTERACTIONS,
            )
        endpoint = None if self.on_aws else self.endpoint
        client: PersonalizeClient = self.storage.opened.client("personalize", endpoint)
        correct_retries(client)
        return client

    @property
    def storage_tag(self) -> str:
        """The value of a tag that tells deployments apart: the root of the deployment's storage.

        All storages in folders have the same URI. So with the embedded Personalize, if the
        storage's folder is not next to the home of the Personalize, the folder's path relative to
        this home is added. The path is relative so that the two folders can be moved together.
        """
        root = self.storage.opened.uri("")
        if self.storage.opened.in_s3 or self.endpoint != EMBEDDED:
            return root
        path = os.path.relpath(self.storage.root, self.home)
        if Path(path) == Path("../storage"):
            return root
        # Replace characters that a tag may not have, and keep only the end of the path, because the
        # length of a tag is limited.
        return root + re.sub(r"[^\w .:/=+@-]", "_", path)[-200:]

    def read_prices(self) -> Prices:
        """Return the prices of the deployment. Raises PricesError."""
        return Prices.read(Path(self.prices)) if self.prices else Prices()

    def open_resources(
        self, log: logging.Logger, tags: dict[str, str], seconds_waited: float = 0
    ) -> Resources:
        """Return the pipeline's resources, which are found, adopted or created, and waited for.

        tags: tags for the resources that are created, besides the deployment's tags.
        seconds_waited: the part of the deadline that has already passed.
        """
        return Resources(
            client=self.client,
            log=log,
            tags={**self.storage.tags, **tags, STORAGE_TAG: self.storage_tag},
            poll_seconds=self.poll_seconds,
            busy_seconds=self.busy_seconds,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            deadline_seconds=self.deadline_hours * 3600,
            started=time.monotonic() - seconds_waited,
            role_arn=self.role_arn,
            max_results=MAX_RESULTS_EMBEDDED if self.endpoint == EMBEDDED else MAX_RESULTS,
            filter_interactions=ALL_INTERACTIONS if self.endpoint == EMBEDDED else FILTER_HISTORY,
            on_aws=self.on_aws,
        )
