"""What the UI shows as a place to go to: a file's path, and the AWS console where it is on AWS."""

from typing import Any
from urllib.parse import quote

import dagster as dg

from batchrec_dagster.resources import PersonalizeResource, StorageResource
from batchrec_dagster.resources.personalize import AWS

Links = dict[str, dg.MetadataValue[Any]]


def stored(name: str, storage: StorageResource, uri: str) -> Links:
    """Where the object lies, under this name, and its page in the S3 console."""
    links: Links = {name: dg.MetadataValue.path(storage.where(uri))}
    if storage.in_s3 and storage.s3.endpoint_url is None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        links[f"{name}_in_console"] = dg.MetadataValue.url(
            f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
        )
    return links


def dataset_group(personalize: PersonalizeResource, arn: str) -> Links:
    """The page of a dataset group, with all that belongs to it, in the Personalize console."""
    if personalize.endpoint != AWS:
        return {}
    region = arn.split(":")[3]
    place = arn.replace("dataset-group/", "dataset-group$", 1)
    return {
        "console": dg.MetadataValue.url(
            f"https://console.aws.amazon.com/personalize/home?region={region}#{place}/setup"
        )
    }
