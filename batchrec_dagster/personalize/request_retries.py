"""Which requests a boto3 client of Personalize repeats, where botocore's own choice is wrong."""

from __future__ import annotations

import random
from typing import Any

from botocore.exceptions import ConnectionClosedError

from batchrec_dagster.personalize.api import LIMIT

# How often a request is sent whose response is truncated, and the longest pause before the next.
MAX_ATTEMPTS = 15
MAX_PAUSE_SECONDS = 20.0


def retry_truncated_responses(client: Any) -> None:
    """Make the boto3 client repeat a request whose response is shorter than its Content-Length.

    After the last attempt the client raises ConnectionClosedError. botocore itself accepts what
    arrived as the whole response, because it reads with `enforce_content_length=False`: a list may
    lack its members, or a creation its ARN.
    """
    client.meta.events.register("needs-retry", _pause_if_truncated)


def _pause_if_truncated(response: Any, attempts: int, **_: Any) -> float | None:
    """The seconds to wait before the next attempt.

    None if the response is complete, or if there is none.
    """
    content_length = response and response[0].headers.get("Content-Length")
    if content_length is None or len(response[0].content) == int(content_length):
        return None
    if attempts >= MAX_ATTEMPTS:
        raise ConnectionClosedError(endpoint_url=response[0].url)
    return random.uniform(0, min(MAX_PAUSE_SECONDS, 0.1 * 2**attempts))  # noqa: S311


def raise_limits_at_once(client: Any) -> None:
    """Make the boto3 client raise a LimitExceededException without repeating the request.

    botocore repeats it, because other services throttle requests with this code. Personalize also
    answers with it when a quota is used up, and `Ensure` waits where that helps.
    """

    def raise_limit(response: Any, operation: Any, **_: Any) -> None:
        error = (response and response[1].get("Error")) or {}
        # Only requests that create something have quotas. Others come too fast.
        if error.get("Code") == LIMIT and operation.name.startswith("Create"):
            raise client.exceptions.LimitExceededException(response[1], operation.name)

    # First, so that botocore does not count it as throttling and slow down all requests.
    client.meta.events.register_first("needs-retry.personalize", raise_limit)
