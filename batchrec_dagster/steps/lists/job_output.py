"""The output of a batch job: its files, its lines, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize.api import ACTIVE, Description
from batchrec_dagster.personalize.formats import OUTPUT_SUFFIX, read_output_lines
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.objects import ObjectInfo

# The advice in messages about an unusable output.
NEXT_RUN = "Run again: the next run starts a new job"
# The name of the object in a job's folder that says why the output is unusable.
DAMAGED = "damaged.txt"
# The number of bytes that are read at once: the lines of tens of thousands of users.
PIECE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class JobOutput:
    """The output of a batch job, finished or not. Its methods raise UserError."""

    storage: Storage
    job: Description
    """The job's description, as Personalize's Describe request returns it."""

    @property
    def folder(self) -> str:
        """The URI of the output folder, with a final slash."""
        folder: str = self.job["jobOutput"]["s3DataDestination"]["path"]
        return folder

    @property
    def version(self) -> str:
        """A fingerprint of the output files' URIs, sizes and ETags. No file is read for it."""
        return fingerprint(*((file.uri, file.size, file.etag) for file in self.files()))

    def files(self) -> list[ObjectInfo]:
        """Return the output files, in order."""
        files = self.storage.store.list(self.folder)
        return [file for file in files if file.uri.endswith(OUTPUT_SUFFIX)]

    def is_usable(self) -> bool:
        """Return whether the output can be used, or will be written by an unfinished job.

        The output of a finished job can be used if its files are still there, no file is empty,
        and the output is not marked as damaged.
        """
        if self.job["status"] != ACTIVE:
            return True
        if self.storage.store.head(self.folder + DAMAGED) is not None:
            return False
        sizes = [file.size for file in self.files()]
        return bool(sizes) and all(sizes)

    def lines(self) -> Iterator[pl.DataFrame]:
        """Yield all lines in order, in pieces of tens of thousands of lines.

        `read_output_lines` parses the lines. There is at least one piece, which may be empty. A
        thread reads the next piece while the caller uses the current piece. Raises UserError if
        there are no files, or if a file is damaged.
        """
        with ThreadPoolExecutor(max_workers=1) as thread:
            pieces = self._read_pieces()
            next_piece = thread.submit(next, pieces, None)
            while (piece := next_piece.result()) is not None:
                next_piece = thread.submit(next, pieces, None)
                yield piece

    def _read_pieces(self) -> Iterator[pl.DataFrame]:
        """Yield the lines of all files, in order.

        A damaged file marks the output as damaged. Raises UserError if there are no files, or if a
        file is damaged.
        """
        files = self.files()
        if not files:
            raise UserError(
                f"the batch job left no {OUTPUT_SUFFIX} file in {self.folder}. {NEXT_RUN}"
            )
        for file in files:
            try:
                for piece in split_at_lines(self.storage.store.chunks(file.uri)):
                    yield read_output_lines(piece)
            except ValueError as error:
                where = self.storage.where(file.uri)
                reason = f"{where} is damaged: {str(error).partition(chr(10))[0]}"
                self.mark_damaged(reason)
                raise UserError(f"{reason}. {NEXT_RUN}") from error

    def mark_damaged(self, reason: str) -> None:
        """Mark this output as unusable, so that no run adopts its job."""
        self.storage.store.put(self.folder + DAMAGED, f"{reason}\n".encode())

    def require_usable(self, findings: Sequence[Finding]) -> None:
        """Raise Refused if a finding blocks because the output is unusable.

        The output is then marked as damaged, and the findings that made it unusable name its
        folder. The error has all findings. Findings that block for other reasons alone raise
        nothing here.
        """
        unusable = [
            finding for finding in findings if finding.blocks and finding.makes_output_unusable
        ]
        if not unusable:
            return
        self.mark_damaged("; ".join(finding.text for finding in unusable))
        folder = self.storage.where(self.folder)
        raise Refused(
            [
                replace(finding, text=f"{folder}: {finding.text}. {NEXT_RUN}")
                if finding in unusable
                else finding
                for finding in findings
            ]
        )


def split_at_lines(chunks: Iterable[bytes], size: int = PIECE_BYTES) -> Iterator[bytes]:
    """Yield the bytes of the chunks in pieces that end with a line.

    Without any bytes, yields one empty piece.

    size: the approximate number of bytes of a piece.
    """
    pending, pending_size, has_yielded = [], 0, False
    for chunk in chunks:
        pending.append(chunk)
        pending_size += len(chunk)
        end = chunk.rfind(b"\n") + 1
        if pending_size >= size and end:
            yield b"".join([*pending[:-1], chunk[:end]])
            pending, pending_size, has_yielded = [chunk[end:]], len(chunk) - end, True
    if pending_size or not has_yielded:
        yield b"".join(pending)
