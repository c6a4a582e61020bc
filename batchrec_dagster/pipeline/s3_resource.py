"""A team's own dagster_aws.s3.S3Resource as the connection of the storage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import dagster as dg

from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource

# The fields that would change the connection but are not supported, with their defaults.
_UNSUPPORTED = {"use_unsigned_session": False, "use_ssl": True, "verify": None}


def read_s3_resource(text: str) -> Mapping[str, str]:
    """Return the fields of S3Connection that the team's resource sets.

    Access keys that are environment variables are returned as `dg.EnvVar`.

    text: the module and the name of the resource in it: acme.resources:s3. If the name is a
        function, such as one with functools.cache, it is called.
    Raises ValueError if there is no such resource, or batchrec cannot use it.
    """
    match = re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)", text, re.ASCII)
    if match is None:
        raise ValueError("write the module and the name of the resource in it: acme.resources:s3")
    module_name, name = match.groups()
    try:
        resource = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"it cannot be imported: {error}") from error
    if callable(resource) and not isinstance(resource, dg.ConfigurableResource):
        resource = resource()
    if not isinstance(resource, dg.ConfigurableResource) or not _is_s3_resource(type(resource)):
        raise ValueError(f"it is a {type(resource).__name__}, not a dagster_aws.s3.S3Resource")
    for field, default in _UNSUPPORTED.items():
        if getattr(resource, field) != default:
            raise ValueError(f"its {field} is not supported for batchrec's storage: leave it out")
    return {
        field: value
        for field in S3ConnectionResource.model_fields
        if (value := getattr(resource, field, None)) is not None
    }


def _is_s3_resource(kind: type[Any]) -> bool:
    # The class is compared by name, because importing it takes longer than all other imports
    # together.
    return any(
        base.__name__ == "S3Resource" and base.__module__.startswith("dagster_aws.s3")
        for base in kind.__mro__
    )
