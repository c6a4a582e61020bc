"""Answers whose connection broke in the middle, asked for again.

botocore takes what came for all there is: a list without its members, a creation without its ARN.
"""

from __future__ import annotations

import random
from typing import Any

from botocore.exceptions import ConnectionClosedError

ATTEMPTS = 15
LONGEST_PAUSE = 20.0


def ask_again_for_half_answers(client: Any) -> None:
    """Have the boto3 client send a request again whose answer is shorter than it announced; raise
    ConnectionClosedError after the last attempt."""
    client.meta.events.register("needs-retry", _pause_where_half)


def _pause_where_half(response: Any, attempts: int, **_: Any) -> float | None:
    """Seconds to wait before the next attempt; None for an answer that is whole, or none at all."""
    announced = response and response[0].headers.get("Content-Length")
    if announced is None or len(response[0].content) == int(announced):
        return None
    if attempts >= ATTEMPTS:
        raise ConnectionClosedError(endpoint_url=response[0].url)
    return random.uniform(0, min(LONGEST_PAUSE, 0.1 * 2**attempts))  # noqa: S311
