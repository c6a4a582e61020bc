"""Jobs of the child process: the current rows of a Delta table.

The log is read here as data first. The library that reads the rows then gets a copy of the log, and
links to the files that the log names, in a temporary folder. It never sees the table's own folder.
Source: github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import base64
import json
import shutil
import string
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from batchrec_dagster.preparation.confined.child import ConfinedJob
from batchrec_dagster.preparation.confined.table_names import (
    build_outside_error,
    resolve_relative_name,
)
from batchrec_dagster.preparation.sources.errors import FileError

LOG = "_delta_log"
# The alphabets of base 85 in the protocol (Z85) and in Python.
_DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase
_Z85 = f"{_DIGITS}.-:+=^!/*?&<>()[]{{}}@%$#"
_PYTHON85 = (
    f"{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}!#$%&()*+-;<=>?@^_`{{|}}~"
)
# Characters that a UUID takes in Z85.
_UUID_LENGTH = 20


@dataclass
class _Log:
    """What the log says of the table's newest version."""

    table_id: str = ""
    files: dict[tuple[str, str], Mapping[str, Any] | None] = field(default_factory=dict)
    """The deletion vector, if any, of each current file, by the path of the file and the vector's
    identity."""

    def apply(self, action: Mapping[str, Any]) -> None:
        """Take one action of the log into account. Raises FileError for a name that leads out of
        the table's folder."""
        metadata, sidecar = action.get("metaData"), action.get("sidecar")
        added, removed = action.get("add"), action.get("remove")
        if metadata:
            self.table_id = str(metadata.get("id"))
        if sidecar:
            raise FileError(
                f"its log refers to another file, {str(sidecar.get('path'))!r}: checkpoints of"
                " version 2 are not read. Write a classic checkpoint"
            )
        if added:
            vector = added.get("deletionVector")
            resolve_relative_name(added["path"])
            _find_vector_file(vector)
            self.files[added["path"], _identify_vector(vector)] = vector
        if removed:
            self.files.pop((removed["path"], _identify_vector(removed.get("deletionVector"))), None)

    @property
    def names(self) -> list[str]:
        """The paths from the table's folder of all files that hold current rows, and of those that
        say which of their rows were deleted."""
        names = {resolve_relative_name(path) for path, _ in self.files}
        for vector in self.files.values():
            vector_file = _find_vector_file(vector)
            if vector_file is not None:
                names.add(vector_file)
        return sorted(names)


def describe_delta(job: ConfinedJob, log: Sequence[str]) -> str:
    """The id of the table.

    log: the paths from the table's folder of the newest checkpoint's files, if there is one, and of
    the commits after it, in order.
    """
    return _read_log(log, job.fetch(log)).table_id


def read_delta(job: ConfinedJob, log: Sequence[str], folder: str, target: str) -> None:
    """Write the current rows as Parquet to the path `target`.

    log: as in `describe_delta`.
    folder: an empty folder, in which the copy of the log and the links are made.
    """
    try:
        from deltalake import DeltaTable
    except ImportError as error:
        raise FileError("to read it, pip install 'batchrec-dagster[lake]'") from error
    import polars as pl

    paths = job.fetch(log)
    names = _read_log(log, paths).names
    copy = Path(folder)
    for name, path in zip(log, paths, strict=True):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy / name)
    packed = 0
    for name, path in zip(names, job.fetch(names), strict=True):
        packed += path.stat().st_size
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to(path)
    job.limit_output(packed)
    with warnings.catch_warnings():
        # The warning is about a faster planner, which is another package.
        warnings.simplefilter("ignore", pl.exceptions.PerformanceWarning)
        pl.scan_delta(DeltaTable(copy)).sink_parquet(target)


def _read_log(names: Sequence[str], paths: Sequence[Path]) -> _Log:
    log = _Log()
    for name, path in zip(names, paths, strict=True):
        is_checkpoint = PurePosixPath(name).suffix == ".parquet"
        actions = _read_checkpoint(path) if is_checkpoint else _read_commit(path)
        for action in actions:
            log.apply(action)
    return log


def _read_commit(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                action = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FileError(
                    f"its log cannot be read ({path.name}, line {number}): copy the table again"
                ) from error
            if isinstance(action, dict):
                yield action


def _read_checkpoint(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = ["add.path", "add.deletionVector", "metaData.id", "sidecar.path"]
        for batch in file.iter_batches(columns=columns, use_threads=False):
            yield from batch.to_pylist()


def _identify_vector(vector: Mapping[str, Any] | None) -> str:
    """What tells a file's deletion vectors apart; empty for none."""
    if not vector:
        return ""
    return f"{vector['storageType']}{vector['pathOrInlineDv']}@{vector.get('offset')}"


def _find_vector_file(vector: Mapping[str, Any] | None) -> str | None:
    """The path from the table's folder of the file with the deletion vector.

    It is None if there is no vector, or the log itself has it. Raises FileError for a file that is
    not in the table's folder.
    """
    if not vector or vector["storageType"] == "i":
        return None
    text = vector["pathOrInlineDv"]
    if vector["storageType"] != "u":
        raise build_outside_error(text)
    prefix, encoded = text[:-_UUID_LENGTH], text[-_UUID_LENGTH:]
    number = base64.b85decode(encoded.translate(str.maketrans(_Z85, _PYTHON85)))
    name = f"deletion_vector_{uuid.UUID(bytes=number)}.bin"
    return resolve_relative_name(f"{prefix}/{name}" if prefix else name)
