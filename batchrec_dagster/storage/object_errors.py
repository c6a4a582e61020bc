"""Explanations, in one line, of failed reads and writes of objects, with advice on what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

from batchrec_dagster.storage.permissions import (
    explain_credentials_error,
    explain_missing_permission,
)

# The S3 action that each operation needs, by the operation's verb in messages.
IAM_ACTIONS = {
    "read": "GetObject",
    "write": "PutObject",
    "list": "ListBucket",
    "delete": "DeleteObject",
}
# The operating system's message for a full disk.
NO_SPACE = "No space left on device"
# The part of obstore's message about a broken connection, or about a server that is overloaded or
# down.
_TEMPORARY = re.compile(
    r"HTTP error: |status code: (408|429|500|502|503|504) "
    r"|<Code>(RequestTimeout|SlowDown|ServiceUnavailable|InternalError|OperationAborted)</Code>"
)


def is_missing_object(error: Exception, verb: str) -> bool:
    """Return whether the error says that the object is missing, rather than the bucket.

    In a write or a listing, only the bucket can be missing. For other requests, the server's answer
    in the error's text says whether the object or the bucket is missing.
    """
    return _is_missing(error) and verb not in ("write", "list") and "NoSuchBucket" not in str(error)


def is_temporary(error: Exception) -> bool:
    """Return whether a later request may succeed, because S3 was overloaded, down or cut off."""
    # obstore appends a dump of the error to its message.
    message = str(error).partition("\n\nDebug source")[0]
    return isinstance(error, BaseError) and _TEMPORARY.search(message) is not None


def _is_missing(error: Exception) -> bool:
    """Return whether the error says that an object or a bucket is missing."""
    # obstore raises a generic error for a listing that finds no bucket.
    return isinstance(error, FileNotFoundError | NotFoundError) or "404 Not Found" in str(error)


def explain_object_error(
    error: Exception, uri: str, verb: str, path: Path | None, arn: Callable[[], str]
) -> str:
    """Return the message for an error of an object or a listing, with advice on what to do.

    verb: the failed operation: read, write, list or delete.
    path: the path of the object on this machine; None in S3.
    arn: returns the text that ARNs of buckets begin with.
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
