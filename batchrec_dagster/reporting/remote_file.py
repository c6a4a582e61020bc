"""An object in S3 as a file, so that a reader of Parquet fetches only the parts that it reads."""

from __future__ import annotations

import io
from typing import Any

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.connection import Storage


class RemoteFile(io.RawIOBase):
    """An S3 object as a file, of which only the bytes that are read are fetched.

    All are of one version of the object. obstore.open_reader cannot be used, because it does not
    compare the ETag, and pyarrow rejects it for having no attribute `closed`.
    """

    def __init__(self, storage: Storage, uri: str) -> None:
        super().__init__()
        object_info = storage.store.head(uri)
        if object_info is None:
            raise UserError(f"{uri} does not exist")
        self._store = storage.store
        self._object_info = object_info
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._object_info.size,
        }
        self._position = starts[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        uri, size, etag, _ = self._object_info
        length = min(len(buffer), size - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._store.read_range(uri, self._position, length, etag)
        self._position += length
        return length
