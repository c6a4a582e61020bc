"""The s3:// paths of requests: what is allowed in one, and which objects it stands for."""

from __future__ import annotations

from batchrec_dagster.local_personalize.errors import InvalidInputError, JobFailedError
from batchrec_dagster.storage.object_store import ObjectInfo, ObjectStore, StorageError, split_uri


def check_location(path: str) -> str:
    """The path as it is. Raises InvalidInputError when it names no place in S3."""
    try:
        split_uri(path)
    except StorageError as error:
        raise InvalidInputError(f"Invalid Data location. {error}") from None
    return path


def folder_of(path: str) -> str:
    """The path as a folder, ending in `/`."""
    return path if path.endswith("/") else path + "/"


def objects_at(store: ObjectStore, path: str) -> list[ObjectInfo]:
    """The one object of that key or, where there is none, all whose key starts with it.

    Raises JobFailedError in Personalize's words.
    """
    try:
        exact = None if path.endswith("/") or not split_uri(path)[1] else store.head(path)
        found = [exact] if exact else store.list(path)
    except StorageError as error:
        raise storage_failure(error) from error
    if not found:
        raise JobFailedError(f"Invalid Data location. There is no object at {path}")
    return found


def storage_failure(error: StorageError) -> JobFailedError:
    """The failure of a job that could not read or write its objects."""
    if "permission denied" in str(error) or "credentials" in str(error):
        return JobFailedError(f"Insufficient privileges for accessing data in Amazon S3. {error}")
    return JobFailedError(f"Invalid Data location. {error}")
