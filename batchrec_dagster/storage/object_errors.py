"""Says in one line why an object could not be read or written, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

from batchrec_dagster.storage.permissions import (
    explain_credentials_error,
    explain_missing_permission,
)

# The permission for each verb of a message.
IAM_ACTIONS = {
    "read": "GetObject",
    "write": "PutObject",
    "list": "ListBucket",
    "delete": "DeleteObject",
}
# What the system says of a full disk.
NO_SPACE = "No space left on device"


def is_missing_object(error: Exception, verb: str) -> bool:
    """Whether the error says that there is no object, rather than no bucket.

    What is written or listed can only lack its bucket. Otherwise the server's answer, which is in
    the error's text, says which is missing.
    """
    return _is_missing(error) and verb not in ("write", "list") and "NoSuchBucket" not in str(error)


def _is_missing(error: Exception) -> bool:
    """Whether there is no such object or bucket."""
    # To obstore, a listing that finds no bucket is a generic error.
    return isinstance(error, FileNotFoundError | NotFoundError) or "404 Not Found" in str(error)


def explain_object_error(
    error: Exception, uri: str, verb: str, path: Path | None, arn: Callable[[], str]
) -> str:
    """The error of an object or of a listing, with what to do.

    verb: what was done with it: read, write, list or delete.
    path: where it is on this machine; None in S3.
    arn: returns what the ARNs of buckets begin with.
    """
    text = str(error)
    is_refused = isinstance(error, PermissionError | PermissionDeniedError)
    if path is not None and is_refused:
        return f"cannot {verb} {path}: permission denied; let this user {verb} there"
    if NO_SPACE in text:
        fix = "free some space. `batchrec check` names the disks"
        return f"cannot {verb} {path or uri}: {NO_SPACE}; {fix}"
    code = re.search(r"<Code>(\w+)</Code>", text)
    credentials_fix = explain_credentials_error(code[1], text) if code else None
    if credentials_fix:
        return f"cannot {verb} {uri}: permission denied; {credentials_fix}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if _is_missing(error):
        return f"cannot {verb} {uri}: there is no bucket {bucket}: create it, or fix its name"
    is_refused |= isinstance(error, UnauthenticatedError)
    if is_refused or "403 Forbidden" in text or "AccessDenied" in text:
        bucket_arn = f"{arn()}{bucket}"
        resource = bucket_arn if verb == "list" else f"{bucket_arn}/{key}"
        fix = explain_missing_permission(f"s3:{IAM_ACTIONS[verb]}", resource, text)
        if verb == "read":
            fix += f" and s3:ListBucket on {bucket_arn}"
        return f"cannot {verb} {uri}: {fix}"
    return f"cannot {verb} {uri}: {text.partition(chr(10))[0]}"
