"""Which requests a boto3 client of Personalize repeats, where botocore's own choice is wrong."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ConnectionClosedError

from batchrec_dagster.personalize.api import LIMIT

# How often a request is sent whose response is cut short.
MAX_ATTEMPTS = 15


def correct_retries(client: Any) -> None:
    """Make the boto3 client repeat requests whose response is cut short, but not those that a quota
    refuses.

    botocore takes a response that is shorter than its Content-Length for the whole one, because it
    reads with `enforce_content_length=False`: a list may lack its members, or a creation its ARN.
    After MAX_ATTEMPTS the client raises ConnectionClosedError. And botocore takes a
    LimitExceededException for throttling, as other services use it: it slows down and repeats the
    request. `Ensure` waits where that helps.
    """

    def decide(response: Any, operation: Any, attempts: int, **_: Any) -> float | None:
        """The seconds to wait before the next attempt; None leaves the choice to botocore."""
        if response is None:
            return None
        http_response, answer = response
        # Only requests that create something have quotas. Others come too fast.
        if answer.get("Error", {}).get("Code") == LIMIT and operation.name.startswith("Create"):
            raise client.exceptions.LimitExceededException(answer, operation.name)
        content_length = http_response.headers.get("Content-Length")
        if content_length is None or len(http_response.content) == int(content_length):
            return None
        if attempts >= MAX_ATTEMPTS:
            raise ConnectionClosedError(endpoint_url=http_response.url)
        return min(20.0, 0.1 * float(2**attempts))

    # First, so that botocore does not count a quota as throttling.
    client.meta.events.register_first("needs-retry.personalize", decide)
