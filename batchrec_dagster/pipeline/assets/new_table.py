"""The table of recommendations, built from a batch inference's output, before it is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.formats.batch_inference import read_output
from batchrec_dagster.formats.interactions import scan_interactions
from batchrec_dagster.local_personalize.progress import Progress
from batchrec_dagster.pipeline.assets.batch_output import counted, output_pieces
from batchrec_dagster.pipeline.assets.items import read_titles
from batchrec_dagster.pipeline.assets.lists import Lists
from batchrec_dagster.pipeline.assets.publishing import Publishing, storage_errors
from batchrec_dagster.pipeline.assets.seen_items import SeenItems
from batchrec_dagster.pipeline.checks import Checked
from batchrec_dagster.published_table import Edition
from batchrec_dagster.resources.ensure import Description
from batchrec_dagster.table_files import TableFiles


@dataclass(frozen=True)
class NewTable:
    """Its numbers of rows, users and distinct items; its first rows; its check results; `dropped`
    counts the offered items that their user had already seen.

    `publish` publishes it, given the metadata to store in it.
    """

    rows: int
    users: int
    items: int
    dropped: int
    sample: pl.DataFrame
    checks: list[Checked]
    publish: Callable[[Mapping[str, Any]], Edition]


@contextmanager
def made_here(
    publishing: Publishing,
    job: Description,
    users: pl.Series,
    seen: SeenItems | None,
    log: dg.DagsterLogManager,
) -> Iterator[NewTable]:
    """Make it of what the job answered; users: who was asked for. Raises dg.Failure."""
    pipeline, storage = publishing.pipeline, publishing.storage
    wanted = pipeline.recommendations
    lists = Lists(wanted.num_results, seen, read_titles(pipeline, storage))
    written = Progress("users' lists written", len(users), log.info)
    with (
        TemporaryDirectory() as folder,
        TableFiles(Path(folder), pipeline.publication.max_file_bytes) as files,
    ):
        lists.write(counted(output_pieces(storage, job, read_output), written), files)

        def publish(about: Mapping[str, Any]) -> Edition:
            files.end(about)
            return publishing.publish(files.paths)

        yield NewTable(
            lists.rows,
            lists.users,
            len(lists.items),
            lists.dropped,
            lists.sample,
            lists.checks(users, filtered=wanted.filter is not None),
            publish,
        )


@contextmanager
def interactions_of(publishing: Publishing) -> Iterator[pl.LazyFrame]:
    """The pipeline's interactions, in a file of this machine. Raises dg.Failure."""
    storage = publishing.storage
    with (
        storage_errors(),
        storage.local_file(storage.uri(publishing.pipeline.places.interactions)) as path,
    ):
        yield scan_interactions(path)
