"""What a batch job left in its folder."""

from collections.abc import Callable

import dagster as dg
import polars as pl

from batchrec_dagster.formats.batch_inference import OUTPUT_SUFFIX
from batchrec_dagster.resources import StorageResource
from batchrec_dagster.resources.ensure import Description


def output_folder(job: Description) -> str:
    """Where it writes: the URI of a folder, with its final slash."""
    folder: str = job["jobOutput"]["s3DataDestination"]["path"]
    return folder


def has_output(storage: StorageResource, job: Description) -> bool:
    """Whether a finished job's files are still there; one under way will write them."""
    return job["status"] != "ACTIVE" or bool(_files(storage, output_folder(job)))


def output_lines(
    storage: StorageResource, job: Description, read: Callable[[bytes], pl.DataFrame]
) -> pl.DataFrame:
    """All lines that it wrote, as `read` reads a file; dg.Failure when that cannot be done."""
    folder = output_folder(job)
    files = _files(storage, folder)
    if not files:
        raise dg.Failure(
            f"the batch job left no {OUTPUT_SUFFIX} file in {folder}: run it again",
            allow_retries=False,
        )
    answers = []
    for uri in files:
        try:
            answers.append(read(storage.store.get(uri)))
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise dg.Failure(
                f"{storage.where(uri)}: {reason}; delete it and start the run again",
                allow_retries=False,
            ) from error
    return pl.concat(answers)


def _files(storage: StorageResource, folder: str) -> list[str]:
    return [file.uri for file in storage.store.list(folder) if file.uri.endswith(OUTPUT_SUFFIX)]
