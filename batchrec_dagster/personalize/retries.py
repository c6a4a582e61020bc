"""Corrections of botocore's rules about the Personalize requests to repeat."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ConnectionClosedError

from batchrec_dagster.personalize.api import LIMIT

# The number of times to send a request before giving up on responses that are cut short.
MAX_ATTEMPTS = 15


def correct_retries(client: Any) -> None:
    """Correct the boto3 client's choice of requests to repeat.

    The client then repeats a request whose response is cut short. botocore takes such a response
    for a complete one, because it reads with `enforce_content_length=False`: a list may lack its
    members, or a creation its ARN. After MAX_ATTEMPTS the client raises ConnectionClosedError.

    The client no longer repeats a request that a quota refuses. botocore takes a
    LimitExceededException for throttling, because other services use it that way, so it slows down
    and repeats the request. `Resources` waits where waiting helps.
    """

    def decide(response: Any, operation: Any, attempts: int, **_: Any) -> float | None:
        """Return the seconds until the next attempt; None leaves the choice to botocore."""
        if response is None:
            return None
        http_response, answer = response
        # Only requests that create something have quotas. For other requests, the error means that
        # they come too fast.
        if answer.get("Error", {}).get("Code") == LIMIT and operation.name.startswith("Create"):
            raise client.exceptions.LimitExceededException(answer, operation.name)
        content_length = http_response.headers.get("Content-Length")
        if content_length is None or len(http_response.content) == int(content_length):
            return None
        if attempts >= MAX_ATTEMPTS:
            raise ConnectionClosedError(endpoint_url=http_response.url)
        return min(20.0, 0.1 * float(2**attempts))

    # This handler runs first, so that botocore does not count a reached quota as throttling.
    client.meta.events.register_first("needs-retry.personalize", decide)
