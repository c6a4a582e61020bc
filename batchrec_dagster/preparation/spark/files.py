"""Files through Spark's own file systems: local ones, and S3 where Spark runs on AWS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from pyspark.sql import SparkSession

from batchrec_dagster.preparation.layout import TAIL, PreparationError
from batchrec_dagster.preparation.sources import formats
from batchrec_dagster.preparation.sources.limits import LimitError, Limits
from batchrec_dagster.preparation.spark.task import SourceFile

CHUNK = 64 * 1024
# Java's classes that unpack files, by the bytes with which the files start.
UNPACKERS = {
    formats.GZIP: "java.util.zip.GZIPInputStream",
    formats.ZSTD: "com.github.luben.zstd.ZstdInputStream",
}


@dataclass(frozen=True)
class InputFile:
    """A file that is not empty and not compressed."""

    uri: str

    name: str
    """What messages call the file."""

    path: str
    """What Spark calls the file in its rows."""

    packed: int
    """Bytes of the file as it came, which may have been compressed."""

    @property
    def pattern(self) -> str:
        """The pattern that names this file alone, because Spark takes every path for one."""
        return re.sub(r"([\[\]{}*?\\])", r"\\\1", self.uri)


@dataclass(frozen=True)
class SparkFiles:
    """Reads, writes and joins files by URI, in the driver's JVM."""

    spark: SparkSession

    work: str
    """The URI of a folder for what is written meanwhile."""

    limits: Limits = field(default_factory=Limits)

    def unpack_inputs(self, files: Sequence[SourceFile]) -> list[InputFile]:
        """The files that are not empty.

        Compressed ones are unpacked into the work folder, so that they can be read in parts. Raises
        PreparationError.
        """
        inputs = [self._unpack_input(number, file) for number, file in enumerate(files)]
        filled = [file for file in inputs if file is not None]
        if not filled:
            raise PreparationError(f"{files[0].name} is empty")
        return filled

    def read(self, uri: str) -> bytes:
        """A small file of this project's own."""
        system, path = self._locate(uri)
        stream = system.open(path)
        try:
            return bytes(stream.readAllBytes())
        finally:
            stream.close()

    def read_line(self, file: InputFile, number: int) -> bytes:
        """The bytes of the line with this number, from 0, without the line end."""
        system, path = self._locate(file.uri)
        stream = system.open(path)
        try:
            start = b""
            while start.count(b"\n") <= number and len(start) <= self.limits.line_bytes * (
                number + 1
            ):
                chunk = bytes(stream.readNBytes(CHUNK))
                start += chunk
                if not chunk:
                    break
        finally:
            stream.close()
        before = start.split(b"\n", number)
        line = before[number].splitlines()[:1] if len(before) > number else []
        with name_file_in_errors(file.name):
            self.limits.check_line(len(b"".join(line)), f"line {number + 1}")
        return b"".join(line)

    def read_last_line(self, file: InputFile) -> bytes:
        """The end of the file, of up to TAIL bytes; none if a line ends there."""
        system, path = self._locate(file.uri)
        size = system.getFileStatus(path).getLen()
        stream = system.open(path)
        try:
            stream.seek(size - 1)
            if stream.read() == ord("\n"):
                return b""
            stream.seek(max(0, size - TAIL))
            return bytes(stream.readNBytes(TAIL))
        finally:
            stream.close()

    def join(self, header: str, folder: str, destination: str) -> str:
        """Write the header and the parts that Spark wrote into the folder, in the order of their
        names, into one file. Returns its SHA-256, in hex."""
        digest = self._jvm.java.security.MessageDigest.getInstance("SHA-256")
        with self._create(destination) as file:
            stream = self._jvm.java.security.DigestOutputStream(file, digest)
            stream.write(bytearray(f"{header}\n".encode()))
            self._copy_parts(folder, stream)
        return bytes(digest.digest()).hex()

    def remove_work(self) -> None:
        system, path = self._locate(self.work)
        system.delete(path, True)

    def _unpack_input(self, number: int, file: SourceFile) -> InputFile | None:
        try:
            system, path = self._locate(file.uri)
            status = system.getFileStatus(path)
            if not status.getLen():
                return None
            stream = system.open(path)
            start = bytes(stream.readNBytes(formats.START))
            stream.close()
        except Exception as error:
            raise PreparationError(
                f"{file.name} cannot be read: {_extract_first_line(error)}"
            ) from error
        _refuse_other_formats(start, file)
        uri, packed = file.uri, status.getLen()
        if start.startswith(formats.PACKED):
            uri = f"{self.work}/unpacked/{number}.plain"
            unpacker = next(name for sign, name in UNPACKERS.items() if start.startswith(sign))
            self._unpack(file, uri, packed, unpacker)
        elif status.getPath().getName().startswith(("_", ".")):
            raise PreparationError(
                f"{file.name}: Spark skips names that begin with _ or .: rename the file"
            )
        system, path = self._locate(uri)
        status = system.getFileStatus(path)
        if not status.getLen():
            return None
        path_in_rows = re.sub("^file:/+", "file:/", str(status.getPath().toUri().toString()))
        return InputFile(uri, file.name, path_in_rows, packed)

    def _unpack(self, file: SourceFile, uri: str, packed: int, unpacker: str) -> None:
        java_class = reduce(getattr, unpacker.split("."), self._jvm)
        system, path = self._locate(file.uri)
        target, place = self._locate(uri)
        try:
            stream = system.open(path)
            source = java_class(stream)
            stream = target.create(place, True)
            # Hadoop's copyBytes would take a small limit for the size of its buffer.
            most = self.limits.compute_unfolded_bytes(packed)
            self._jvm.org.apache.commons.io.IOUtils.copyLarge(source, stream, 0, most)
            is_longer = source.read() >= 0
            source.close()
            stream.close()
        except Exception as error:
            raise PreparationError(
                f"{file.name} is damaged ({_extract_first_line(error)}): copy it again"
            ) from error
        if is_longer:
            raise PreparationError(f"{file.name}: {self.limits.build_size_error(packed)}")

    @contextmanager
    def _create(self, uri: str) -> Iterator[Any]:
        """A stream into a file that appears once it is whole."""
        system, place = self._locate(uri)
        # An object in S3 appears once it is whole. A file appears at once: it gets its name last.
        part = place.suffix(".part") if system.getUri().getScheme() == "file" else place
        stream = system.create(part, True)
        try:
            yield stream
        finally:
            stream.close()
        if part is not place:
            system.delete(place, False)
            system.rename(part, place)

    def _copy_parts(self, folder: str, stream: Any) -> None:
        system, path = self._locate(folder)
        parts = [status.getPath() for status in system.listStatus(path)]
        for part in sorted(parts, key=str):
            if part.getName().startswith("part-"):
                source = system.open(part)
                self._jvm.org.apache.hadoop.io.IOUtils.copyBytes(source, stream, CHUNK, False)
                source.close()

    def _locate(self, uri: str) -> tuple[Any, Any]:
        path = self._jvm.org.apache.hadoop.fs.Path(uri)
        configuration = self.spark.sparkContext._jsc.hadoopConfiguration()
        return path.getFileSystem(configuration), path

    @property
    def _jvm(self) -> Any:
        return self.spark.sparkContext._jvm


@contextmanager
def name_file_in_errors(name: str) -> Iterator[None]:
    """A block in which a LimitError becomes a PreparationError that names the file."""
    try:
        yield
    except LimitError as error:
        raise PreparationError(f"{name}: {error}") from error


def _refuse_other_formats(start: bytes, file: SourceFile) -> None:
    """Raise PreparationError for a format that only the local engine reads."""
    form = "in UTF-16" if start.startswith(formats.UTF16) else formats.recognise_format(start)
    if form is not None:
        raise PreparationError(
            f"{file.name} is {form}, which Spark does not read here: write it as CSV in UTF-8 or as"
            " Parquet, or set preparation.engine: local"
        )


def _extract_first_line(error: Exception) -> str:
    """The first line of the error's words; of Java's own where it comes from there."""
    java_error = getattr(error, "java_exception", None)
    return str(error if java_error is None else java_error.getMessage()).partition("\n")[0]
