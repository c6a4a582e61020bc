"""The receipt of an erasure: when, how many people, what was erased where. It has no ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from batchrec_dagster.storage.paths import PipelineFiles


@dataclass(frozen=True)
class Receipt:
    """The receipt for one pipeline."""

    pipeline: str
    started_at: str
    """In ISO 8601, when the erasure was first started."""
    people: int
    """How many ids were named."""
    erased: Mapping[str, str]
    """How much was erased, by the name of the place."""
    suppressed: int
    """How many people the pipeline leaves out from now on."""
    remains: tuple[str, ...] = ()
    """Sentences on what is still somewhere, and when it goes."""

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "remains": list(self.remains),
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "batchrec": version("batchrec-dagster"),
        }

    def write(self, files: PipelineFiles) -> str:
        """Store the receipt, and return where it is."""
        record = self.to_json()
        name = record["ended_at"].replace(":", "").replace("+0000", "Z")
        uri = files.uri(f"{files.storage_keys.erasure_receipts}{name}.json")
        files.storage.store.put(uri, (json.dumps(record, indent=2) + "\n").encode())
        return files.storage.where(uri)
