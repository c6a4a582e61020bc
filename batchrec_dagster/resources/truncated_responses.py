"""Retries responses whose connection broke within the body.

botocore reads with `enforce_content_length=False` and takes what arrived for the whole: a list
without its members, a creation without its ARN.
"""

from __future__ import annotations

import random
from typing import Any

from botocore.exceptions import ConnectionClosedError

ATTEMPTS = 15
LONGEST_PAUSE = 20.0


def retry_truncated_responses(client: Any) -> None:
    """Make the boto3 client retry a response that is shorter than its Content-Length, and raise
    ConnectionClosedError after the last attempt."""
    client.meta.events.register("needs-retry", _pause_if_truncated)


def _pause_if_truncated(response: Any, attempts: int, **_: Any) -> float | None:
    """Seconds before the next attempt; None for a complete response, or none at all."""
    announced = response and response[0].headers.get("Content-Length")
    if announced is None or len(response[0].content) == int(announced):
        return None
    if attempts >= ATTEMPTS:
        raise ConnectionClosedError(endpoint_url=response[0].url)
    return random.uniform(0, min(LONGEST_PAUSE, 0.1 * 2**attempts))  # noqa: S311
