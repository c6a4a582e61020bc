"""What a batch job wrote: whether it can be used, and its lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize.api import ACTIVE, Description
from batchrec_dagster.personalize.formats import OUTPUT_SUFFIX, read_output_lines
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.objects import ObjectInfo

# What to do about an output of no use.
NEXT_RUN = "Run again: the next run starts a new job"
# The name of the object in a job's folder that says why its output is of no use.
DAMAGED = "damaged.txt"
# How many bytes of a file are read at once: tens of thousands of users' lines.
PIECE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class JobOutput:
    """What a batch job wrote, or will write. Its methods raise UserError."""

    storage: Storage
    job: Description
    """Describe's answer for the job."""

    @property
    def folder(self) -> str:
        """The URI of the folder, with its final slash."""
        folder: str = self.job["jobOutput"]["s3DataDestination"]["path"]
        return folder

    @property
    def version(self) -> str:
        """What changes with the files that the job wrote, without reading them."""
        return fingerprint(*((file.uri, file.size, file.etag) for file in self.files()))

    def files(self) -> list[ObjectInfo]:
        """The files, in order."""
        files = self.storage.store.list(self.folder)
        return [file for file in files if file.uri.endswith(OUTPUT_SUFFIX)]

    def is_usable(self) -> bool:
        """Whether a finished job's files are still there, and neither empty nor known to be
        damaged.

        True for a job under way, which will write them.
        """
        if self.job["status"] != ACTIVE:
            return True
        if self.storage.store.head(self.folder + DAMAGED) is not None:
            return False
        sizes = [file.size for file in self.files()]
        return bool(sizes) and all(sizes)

    def lines(self) -> Iterator[pl.DataFrame]:
        """All lines as `read_output_lines` reads them, in order, in pieces of tens of thousands.

        There is at least one piece, which may be empty. A thread reads the next one while one is in
        use.
        """
        with ThreadPoolExecutor(max_workers=1) as thread:
            pieces = self._read_pieces()
            next_piece = thread.submit(next, pieces, None)
            while (piece := next_piece.result()) is not None:
                next_piece = thread.submit(next, pieces, None)
                yield piece

    def _read_pieces(self) -> Iterator[pl.DataFrame]:
        """The lines of all files, in order.

        Raises UserError if there are no files, or one is damaged.
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
        """Note that this output is of no use, so that no run adopts its job."""
        self.storage.store.put(self.folder + DAMAGED, f"{reason}\n".encode())

    def require_usable(self, findings: Sequence[Finding]) -> None:
        """Mark the output if one of the findings blocks because of it.

        Raises Refused then, whose findings name the folder. Other findings are not looked at.
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
    """Yield the same bytes in pieces of about `size` bytes that end with a line.

    Without any bytes, yield one empty piece.
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
