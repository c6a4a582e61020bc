"""raw_ratings: the ratings file, copied into the storage as it is."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from batchrec_dagster.object_store import StorageError
from batchrec_dagster.pipeline.assets.specs import column_schema, described
from batchrec_dagster.pipeline.checks import Checked, published, specs
from batchrec_dagster.pipeline.places import read_record
from batchrec_dagster.pipeline.settings import Pipeline, fingerprint
from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.local import opened
from batchrec_dagster.preparation.opening import RawFile
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources import SourceError, copy_source, describe_source
from batchrec_dagster.resources import StorageResource

CODE_VERSION = "1"
UNITS = {"s": "seconds", "ms": "milliseconds", "auto": "seconds or milliseconds"}


def raw_ratings(pipeline: Pipeline, project: Path) -> dg.AssetsDefinition:
    """The asset; a relative path of the source starts at the project's folder."""
    ratings, places = pipeline.ratings, pipeline.places
    shown = without_secrets(ratings.source)

    @dg.asset(
        **described(
            pipeline,
            description="The ratings file, copied once into the storage as it is. A source that"
            " has not changed is not copied again.",
            kinds={"file"},
            storage_key=places.record("raw_ratings"),
            code_version=f"{CODE_VERSION}-{fingerprint(ratings)}",
            io_manager="record_io",
        ),
        check_specs=specs(
            "raw_ratings",
            pipeline.name,
            columns_parse="The declared columns are there, and their values can be read.",
        ),
    )
    def raw_ratings(context: dg.AssetExecutionContext, storage: StorageResource) -> Iterator[Any]:
        started = time.monotonic()
        folders = {"base": project, "cache": Path(storage.cache)}
        try:
            before = read_record(storage, places.record("raw_ratings"))
            source = describe_source(ratings.source, storage.store, **folders)
            uri = storage.uri(places.raw(source.filename))
            unchanged = (
                before.get("fingerprint") == source.fingerprint
                and before.get("uri") == uri
                and (there := storage.store.head(uri)) is not None
                and there.size == before.get("size")
            )
            if unchanged:
                record = before
                context.log.info(f"{shown} has not changed: it is not copied again")
            else:
                context.log.info(f"copying {shown} to {storage.where(uri)}")
                copied = copy_source(ratings.source, storage.store, uri, **folders)
                record = {
                    "source": shown,
                    "fingerprint": source.fingerprint,
                    "uri": uri,
                    "size": copied.size,
                    "sha256": copied.sha256,
                }
        except (SourceError, StorageError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error

        with storage.local_file(uri) as path:
            check, rows = _columns_parse(
                RawFile(path, storage.where(uri)), ratings.layout, ratings.on_bad_rows
            )
            with path.open(encoding="utf-8", errors="replace") as file:
                first_lines = "".join(line for line, _ in zip(file, range(6), strict=False))
        yield from published(
            [check],
            dg.MaterializeResult(
                value=record,
                data_version=dg.DataVersion(record["sha256"][:16]),
                metadata={
                    "outcome": "unchanged: not copied again" if unchanged else "copied",
                    "source": shown,
                    "file": storage.where(uri),
                    "bytes": record["size"],
                    "dagster/row_count": rows,
                    "dagster/column_schema": column_schema(_columns(ratings.layout)),
                    "first_lines": dg.MetadataValue.md(f"```\n{first_lines}```"),
                    "seconds": time.monotonic() - started,
                },
            ),
        )

    return raw_ratings


def without_secrets(source: str) -> str:
    """The source as logs and metadata may show it: a signed URL's signature, or a password in a
    URL, is a secret."""
    if not source.startswith(("http://", "https://")):
        return source
    url, separator, member = source.partition("!/")
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{separator}{member}"


def _columns(layout: Layout) -> dict[str, tuple[str, str]]:
    """The columns that the pipeline reads; one without a name goes by its position."""
    roles = {
        layout.user: ("string", "The user's id."),
        layout.item: ("string", "The item's id."),
        layout.rating: ("double", "The rating."),
        layout.timestamp: ("long", f"When; epoch {UNITS[layout.timestamp_unit]}."),
    }
    return {
        column if isinstance(column, str) else f"column {column}": told
        for column, told in roles.items()
        if column is not None
    }


def _columns_parse(file: RawFile, layout: Layout, on_bad_rows: str) -> tuple[Checked, int]:
    """The check, and how many rows the file has."""
    try:
        with opened([file], layout, Rules()) as read:
            rows, bad = read.look()
    except PreparationError as error:
        return Checked("columns_parse", passed=False, found=str(error)), 0
    found = f"{bad.total:,} of {rows:,} rows cannot be read"
    if bad.total:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in bad.counts.items())
        found += f" ({reasons}); the first: {bad.examples[0]}"
        found += (
            "; they are left out (ratings.on_bad_rows: skip)"
            if on_bad_rows == "skip"
            else "; mend the file, or leave such rows out with ratings.on_bad_rows: skip"
        )
    passed = bad.total < rows and (not bad.total or on_bad_rows == "skip")
    return Checked("columns_parse", passed, found, {"rows": rows, "bad_rows": bad.total}), rows
