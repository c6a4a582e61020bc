"""The receipt of an erasure: when, how many people, what was erased where. It has no ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from batchrec_dagster.storage.layout import ListKeys, PipelineFiles


def count_people(number: int) -> str:
    """The number with its noun."""
    return f"{number:,} {'person' if number == 1 else 'people'}"


@dataclass(frozen=True)
class Receipt:
    """The receipt for one pipeline."""

    pipeline: str
    started_at: str
    """In ISO 8601, when the erasure was first started."""
    ended_at: str
    """In ISO 8601."""
    people: int
    """How many ids were named."""
    erased: Mapping[str, str]
    """How much was erased, by the name of the place."""
    suppressed: int
    """How many people the pipeline leaves out from now on."""
    remains: tuple[str, ...] = ()
    """Sentences on what is still somewhere, and when it goes."""

    def describe(self) -> list[str]:
        """The receipt in lines, without the places that had nothing."""
        lines = [f"{self.pipeline}: erased {count_people(self.people)}"]
        lines += [
            f"  {amount} of {place}"
            for place, amount in self.erased.items()
            if not amount.startswith("0 ")
        ]
        lines += [f"  {sentence}" for sentence in self.remains]
        return lines

    @property
    def key(self) -> str:
        """Its key in the storage."""
        name = self.ended_at.replace(":", "").replace("+0000", "Z")
        return f"{ListKeys(self.pipeline).erasure_receipts}{name}.json"

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "remains": list(self.remains),
            "batchrec": version("batchrec-dagster"),
        }

    def write(self, files: PipelineFiles) -> None:
        """Store the receipt."""
        content = json.dumps(self.to_json(), indent=2) + "\n"
        files.storage.store.put(files.uri(self.key), content.encode())
