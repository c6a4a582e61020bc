"""The models that score items for users: a blend of components over a history, and popularity."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.components import (
    EASE_HIGH_REG,
    SCORER_TYPES,
    SYMMETRIC_COOC,
    Scorer,
)
from batchrec_dagster.local_personalize.learning.interactions import History, Ids, ModelFileError
from batchrec_dagster.local_personalize.learning.serving import UserScoringModel
from batchrec_dagster.local_personalize.learning.store import (
    Arrays,
    load_arrays,
    pack_ids,
    save_arrays,
    unpack_ids,
)
from batchrec_dagster.personalize.recipes import Values

Float32 = npt.NDArray[np.float32]

HELD_OUT = "held-out"  # a subfolder of the model's folder, and the kind in its manifest


@dataclass(frozen=True)
class PopularityModel(UserScoringModel):
    """Recommends the items with the most interactions, the same to all users."""

    kind: ClassVar[str] = "popularity"

    item_ids: Ids
    popularity: Float32  # (n_items,) log of the counts

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        return np.tile(self.popularity, (len(history.lengths), 1))

    def save(self, folder: Path) -> None:
        """See TrainedModel."""
        arrays = {**pack_ids(self.item_ids), "popularity": self.popularity}
        save_arrays(folder, self.kind, arrays, {})

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> PopularityModel:
        """The model that was saved."""
        return cls(item_ids, arrays["popularity"])


@dataclass(frozen=True)
class BlendModel(UserScoringModel):
    """The model of aws-user-personalization: a weighted sum of components.

    Users without a history get popular items. An update also needs `held_out`, which `save`
    writes and `load` ignores.
    """

    kind: ClassVar[str] = "personalization"

    item_ids: Ids
    popularity: Float32  # (n_items,) log of the counts
    scorers: Mapping[str, Scorer]  # by name of the component
    recency_exponents: Mapping[str, float]  # of each component, see History.recency_weights
    weights: Mapping[str, float]  # of each component's scores in the logits
    held_out: HeldOut | None = None

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        logits = np.zeros((len(history.lengths), len(self.item_ids)), dtype=np.float32)
        for name, scorer in self.scorers.items():
            scores = scorer.score(history, self.recency_exponents[name])
            scores *= np.float32(self.weights[name])
            logits += scores
        logits[history.lengths == 0] = self.popularity
        return logits

    def save(self, folder: Path) -> None:
        """See TrainedModel."""
        arrays, facts = self.contents()
        shutil.rmtree(folder / HELD_OUT, ignore_errors=True)
        if self.held_out is not None:
            self.held_out.save(folder / HELD_OUT)
        save_arrays(folder, self.kind, {**pack_ids(self.item_ids), **arrays}, facts)

    def contents(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What `load` needs besides the item ids: arrays, and facts for the manifest."""
        arrays: dict[str, npt.NDArray[Any]] = {"popularity": self.popularity}
        facts = {}
        for name, scorer in self.scorers.items():
            facts[name] = {
                "kind": scorer.kind,
                "recency_exponent": self.recency_exponents[name],
                "weight": self.weights[name],
            }
            arrays |= {f"{name}.{key}": value for key, value in scorer.arrays().items()}
        return arrays, {"components": facts}

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> BlendModel:
        """The model that gave `contents`. Raises KeyError when something is missing."""
        if "parts" in facts:
            arrays, facts = _from_old_names(arrays, facts)
        components = facts["components"]
        scorers: dict[str, Scorer] = {}
        for name, fact in components.items():
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in arrays.items()
                if key.startswith(f"{name}.")
            }
            scorers[name] = SCORER_TYPES[fact["kind"]].from_arrays(own)
        return cls(
            item_ids,
            arrays["popularity"],
            scorers,
            {name: fact["recency_exponent"] for name, fact in components.items()},
            {name: fact["weight"] for name, fact in components.items()},
        )


def _from_old_names(arrays: Arrays, facts: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """What `contents` gives now, from a model saved when its names were others."""
    new = {"ease-shrunk": EASE_HIGH_REG, "either-way": SYMMETRIC_COOC}
    components = {
        new.get(name, name): {
            "kind": fact["kind"],
            "recency_exponent": fact["power"],
            "weight": fact["share"],
        }
        for name, fact in facts["parts"].items()
    }
    renamed = {}
    for key, array in arrays.items():
        name, dot, rest = key.partition(".")
        renamed[new.get(name, name) + dot + rest] = array
    return renamed, {"components": components}


@dataclass(frozen=True)
class HeldOut:
    """What an update needs to measure itself like the training before it."""

    model: BlendModel  # trained without the held-out users
    users: Ids  # (held out,) distinct str
    hyperparameters: Values

    def save(self, folder: Path) -> None:
        """Write everything into the folder."""
        arrays, facts = self.model.contents()
        users = {f"user_{name}": array for name, array in pack_ids(self.users).items()}
        save_arrays(
            folder,
            HELD_OUT,
            {**pack_ids(self.model.item_ids), **users, **arrays},
            {**facts, "hyperparameters": dict(self.hyperparameters)},
        )

    @classmethod
    def load(cls, model: Path) -> HeldOut | None:
        """What was saved with the model in the folder, None if nothing was.

        Raises ModelFileError when a file is missing or damaged.
        """
        folder = model / HELD_OUT
        if not folder.exists():
            return None
        kind, arrays, facts = load_arrays(folder)
        if kind != HELD_OUT:
            raise ModelFileError(f"{folder} contains {kind!r}, expected {HELD_OUT!r}")
        try:
            users = {name: arrays[f"user_{name}"] for name in ("id_bytes", "id_ends")}
            return cls(
                BlendModel.load(unpack_ids(arrays), arrays, facts),
                unpack_ids(users),
                facts["hyperparameters"],
            )
        except (KeyError, ValueError) as error:
            raise ModelFileError(f"{folder} is incomplete: {error}") from error
