"""The S3 paths that requests name: their form, their objects, and what is wrong with them."""

from __future__ import annotations

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore, split_uri

from ..errors import InvalidInputError, JobFailedError


def check_location(path: str) -> str:
    """Return the path unchanged. Raises InvalidInputError if it is not an S3 path."""
    try:
        split_uri(path)
    except UserError as error:
        raise InvalidInputError(f"Invalid Data location. {error}") from None
    return path


def add_slash(path: str) -> str:
    """Return the path as a folder's, with a slash at its end."""
    return path if path.endswith("/") else path + "/"


def list_objects(store: ObjectStore, path: str) -> list[ObjectInfo]:
    """Return the object with this key or, if there is none, all objects under that prefix.

    Raises JobFailedError, in Amazon Personalize's words, if there is none or it cannot be read.
    """
    try:
        _, key = split_uri(path)
        exact = None if path.endswith("/") or not key else store.head(path)
        objects = [exact] if exact else store.list(path)
    except UserError as error:
        raise explain_storage_error(error) from error
    if not objects:
        raise JobFailedError(f"Invalid Data location. There is no object at {path}")
    return objects


def explain_storage_error(error: UserError) -> JobFailedError:
    """Return the failure of a job that cannot read or write its S3 objects."""
    if "permission denied" in str(error) or "credentials" in str(error):
        return JobFailedError(f"Insufficient privileges for accessing data in Amazon S3. {error}")
    return JobFailedError(f"Invalid Data location. {error}")
