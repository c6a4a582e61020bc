"""The model behind aws-user-personalization: a blend of parts over a history with recency."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.components import KINDS, Part
from batchrec_dagster.local_personalize.learning.histories import History
from batchrec_dagster.local_personalize.learning.hyperparameters import Value
from batchrec_dagster.local_personalize.learning.interactions import (
    Ids,
    Interactions,
    ModelFileError,
)
from batchrec_dagster.local_personalize.learning.reranking import rank
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended, recommend
from batchrec_dagster.local_personalize.learning.store import (
    Arrays,
    load_arrays,
    pack_ids,
    save_arrays,
    unpack_ids,
)

Float32 = npt.NDArray[np.float32]


HELD_OUT = "held-out"  # kind, and folder in the model's


@dataclass(frozen=True)
class HeldOut:
    """What an update needs of the training before: how the metrics were measured, and on whom."""

    model: PersonalizationModel  # trained without these users
    users: Ids  # (held out,) distinct str
    hyperparameters: Mapping[str, Value]

    def save(self, folder: Path) -> None:
        """Write all of it into the folder."""
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
        """What was saved beside the model in the folder, if anything was.

        Raises ModelFileError when a file is missing or damaged.
        """
        folder = model / HELD_OUT
        if not folder.exists():
            return None
        kind, arrays, facts = load_arrays(folder)
        if kind != HELD_OUT:
            raise ModelFileError(f"{folder} holds {kind!r}, not {HELD_OUT!r}")
        try:
            users = {name: arrays[f"user_{name}"] for name in ("id_bytes", "id_ends")}
            return cls(
                PersonalizationModel.load(unpack_ids(arrays), arrays, facts),
                unpack_ids(users),
                facts["hyperparameters"],
            )
        except (KeyError, ValueError) as error:
            raise ModelFileError(f"what {folder} holds is not whole: {error}") from error


@dataclass(frozen=True)
class PersonalizationModel:
    """Scores every item for every user from the user's history; the popular without one."""

    kind: ClassVar[str] = "personalization"

    item_ids: Ids
    popularity: Float32  # (n_items,) log of the counts
    parts: Mapping[str, Part]
    powers: Mapping[str, float]  # how much more each part makes of the recent (History.weights)
    shares: Mapping[str, float]  # what the scores of each part count in the logits
    held_out: HeldOut | None = None  # written beside the model; not read back with it

    def score(self, history: History) -> Float32:
        """(users, n_items) logits."""
        scores = np.zeros((len(history.lengths), len(self.item_ids)), dtype=np.float32)
        for name, part in self.parts.items():
            found = part.score(history, self.powers[name])
            found *= np.float32(self.shares[name])
            scores += found
        scores[history.lengths == 0] = self.popularity
        return scores

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel."""
        return recommend(
            self.score,
            self.item_ids,
            user_ids,
            interactions,
            num_results,
            forbid=forbid,
        )

    def rank(
        self,
        user_ids: Sequence[str],
        lists: Sequence[npt.NDArray[np.int32]],
        interactions: Interactions,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """See UserModel."""
        return rank(self.score, self.item_ids, user_ids, lists, interactions, forbid=forbid)

    def save(self, folder: Path) -> None:
        """See Known."""
        arrays, facts = self.contents()
        shutil.rmtree(folder / HELD_OUT, ignore_errors=True)
        if self.held_out is not None:
            self.held_out.save(folder / HELD_OUT)
        save_arrays(folder, self.kind, {**pack_ids(self.item_ids), **arrays}, facts)

    def contents(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What to save beside the ids: arrays and facts."""
        arrays: dict[str, npt.NDArray[Any]] = {"popularity": self.popularity}
        facts = {}
        for name, part in self.parts.items():
            facts[name] = {
                "kind": part.kind,
                "power": self.powers[name],
                "share": self.shares[name],
            }
            arrays |= {f"{name}.{key}": value for key, value in part.arrays().items()}
        return arrays, {"parts": facts}

    @classmethod
    def load(cls, item_ids: Ids, arrays: Arrays, facts: dict[str, Any]) -> PersonalizationModel:
        """The model whose arrays were saved."""
        parts: dict[str, Part] = {}
        for name, fact in facts["parts"].items():
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in arrays.items()
                if key.startswith(f"{name}.")
            }
            parts[name] = KINDS[fact["kind"]].of(own)
        return cls(
            item_ids,
            arrays["popularity"],
            parts,
            {name: fact["power"] for name, fact in facts["parts"].items()},
            {name: fact["share"] for name, fact in facts["parts"].items()},
        )
