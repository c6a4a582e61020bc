"""Reads data of one's own as a run does, without the run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from batchrec_dagster.config import Pipeline
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.rules import PreparationResult
from batchrec_dagster.preparation.sources.source import SourceContext
from batchrec_dagster.samples import generator
from batchrec_dagster.storage.object_store import ObjectStore


def prepare_interactions(
    root: Path, attributes: Mapping[str, Any]
) -> tuple[list[str], PreparationResult]:
    """The lines of the interactions below their header, and what became of the rows.

    root: the project's folder.
    attributes: the blocks of the YAML, such as `ratings`.
    """
    pipeline = Pipeline.model_validate({"name": "shop", **attributes})
    context = SourceContext(ObjectStore({"lake": root}), root, root / "cache", generator)
    target = root / "interactions.csv"
    with ExitStack() as stack:
        files = [
            RawFile(stack.enter_context(listed.file.open_locally(context)), listed.filename)
            for listed in pipeline.ratings.rows.files(context)
        ]
        read = stack.enter_context(open_ratings(files, pipeline.ratings.reading, pipeline.rules))
        result = read.write_interactions(target)
    return target.read_text().splitlines()[1:], result
