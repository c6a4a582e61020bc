"""A source's file, copied into the storage once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.object_store import StorageError
from batchrec_dagster.pipeline.assets.raw_files import without_secrets
from batchrec_dagster.pipeline.places import read_record
from batchrec_dagster.preparation.sources import SourceError, copy_source, describe_source
from batchrec_dagster.resources import StorageResource


@dataclass(frozen=True)
class Copy:
    """The record of a copy, for the next run to compare with, and whether this run made it."""

    record: dict[str, Any]
    made: bool

    @property
    def outcome(self) -> str:
        return "copied" if self.made else "unchanged: not copied again"


def copied(
    context: dg.AssetExecutionContext,
    storage: StorageResource,
    source: str,
    *,
    base: Path,
    record: str,
    place: Callable[[str], str],
) -> Copy:
    """Copy the file unless the last run did and it has not changed since.

    `base` is where a relative path starts, `record` the storage key of the last run's record,
    `place` gives the storage key for a file of that name. Raises dg.Failure.
    """
    shown = without_secrets(source)
    folders = {"base": base, "cache": Path(storage.cache)}
    try:
        before = read_record(storage, record)
        found = describe_source(source, storage.store, **folders)
        uri = storage.uri(place(found.filename))
        if (
            before.get("fingerprint") == found.fingerprint
            and before.get("uri") == uri
            and (there := storage.store.head(uri)) is not None
            and there.size == before.get("size")
        ):
            context.log.info(f"{shown} has not changed: it is not copied again")
            return Copy(before, made=False)
        context.log.info(f"copying {shown} to {storage.where(uri)}")
        done = copy_source(source, storage.store, uri, **folders)
    except (SourceError, StorageError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    return Copy(
        {
            "source": shown,
            "fingerprint": found.fingerprint,
            "uri": uri,
            "size": done.size,
            "sha256": done.sha256,
        },
        made=True,
    )
