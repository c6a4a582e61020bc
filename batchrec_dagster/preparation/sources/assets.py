"""asset://KEY: the rows of another asset of the Dagster project, which only a run can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from batchrec_dagster.preparation.sources.source import File, FileError, Look, SourceContext

SCHEME = "asset://"
ONLY_A_RUN = "an asset is read by a run, as the source of ratings or items: name a file here"


@dataclass(frozen=True)
class AssetRows(File):
    """The rows of an asset, before a run has found out where they are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises FileError."""
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text.removeprefix(SCHEME)):
            raise FileError("write an asset's key, its parts separated by /: asset://shop/orders")
        return cls(text)

    @property
    def key(self) -> list[str]:
        """The parts of the asset's key."""
        return self.text.removeprefix(SCHEME).split("/")

    def look(self, context: SourceContext) -> Look:
        del context
        raise FileError(ONLY_A_RUN)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        del context
        raise FileError(ONLY_A_RUN)
