"""What a batch job left in its folder."""

from collections.abc import Callable, Iterable, Iterator

import dagster as dg
import polars as pl

from batchrec_dagster.formats.batch_inference import OUTPUT_SUFFIX
from batchrec_dagster.local_personalize.progress import Progress
from batchrec_dagster.object_store import StorageError
from batchrec_dagster.resources import StorageResource
from batchrec_dagster.resources.ensure import Description

# Bytes of a file that are read at once: some tens of thousands of users' lines.
PIECE = 16 * 1024 * 1024


def output_folder(job: Description) -> str:
    """Where it writes: the URI of a folder, with its final slash."""
    folder: str = job["jobOutput"]["s3DataDestination"]["path"]
    return folder


def has_output(storage: StorageResource, job: Description) -> bool:
    """Whether a finished job's files are still there; one under way will write them."""
    return job["status"] != "ACTIVE" or bool(_files(storage, output_folder(job)))


def output_files(storage: StorageResource, job: Description) -> list[str]:
    """The URIs of the files that it wrote, in order. Raises dg.Failure when there are none."""
    folder = output_folder(job)
    files = _files(storage, folder)
    if not files:
        raise dg.Failure(
            f"the batch job left no {OUTPUT_SUFFIX} file in {folder}: run it again",
            allow_retries=False,
        )
    return files


def output_pieces(
    storage: StorageResource, job: Description, read: Callable[[bytes], pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """All lines that it wrote in order, in pieces as `read` reads some bytes of a file: at least
    one, which may be empty. Raises dg.Failure when that cannot be done."""
    for uri in output_files(storage, job):
        try:
            for piece in whole_lines(storage.store.chunks(uri)):
                yield read(piece)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise dg.Failure(
                f"{storage.where(uri)}: {reason}; delete it and start the run again",
                allow_retries=False,
            ) from error


def counted(pieces: Iterable[pl.DataFrame], progress: Progress) -> Iterator[pl.DataFrame]:
    """The same pieces, a row of each counted when it has been dealt with."""
    for piece in pieces:
        yield piece
        progress.add(piece.height)
    progress.end()


def whole_lines(chunks: Iterable[bytes], size: int = PIECE) -> Iterator[bytes]:
    """The same bytes cut anew at ends of lines, into pieces of about `size` bytes; one piece
    without a byte when there are none."""
    waiting, waiting_size, cut = [], 0, False
    for chunk in chunks:
        waiting.append(chunk)
        waiting_size += len(chunk)
        end = chunk.rfind(b"\n") + 1
        if waiting_size >= size and end:
            yield b"".join([*waiting[:-1], chunk[:end]])
            waiting, waiting_size, cut = [chunk[end:]], len(chunk) - end, True
    if waiting_size or not cut:
        yield b"".join(waiting)


def _files(storage: StorageResource, folder: str) -> list[str]:
    return [file.uri for file in storage.store.list(folder) if file.uri.endswith(OUTPUT_SUFFIX)]
