"""The model that recommends what most users had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .interactions import Float32, History, Ids
from .serving import UserModel
from .store import Arrays, pack_ids, require_array, save_arrays, unpack_distinct_ids


@dataclass(frozen=True)
class PopularityModel(UserModel):
    """Recommends the items with the most interactions, the same to all users."""

    kind: ClassVar[str] = "popularity"

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    popularity: Float32
    """(n_items,) log of the counts."""

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        return np.tile(self.popularity, (len(history.lengths), 1))

    def save(self, folder: Path) -> None:
        arrays = {**pack_ids(self.item_ids), "popularity": self.popularity}
        save_arrays(folder, self.kind, arrays, {})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> PopularityModel:
        """The model that was saved. Raises KeyError, or ValueError that names the file."""
        item_ids = unpack_distinct_ids(arrays)
        return cls(item_ids, require_array(arrays, "popularity", [np.float32], [len(item_ids)]))
