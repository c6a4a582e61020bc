"""What every trained model can do, and how one is read back from its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from batchrec_dagster.local_personalize.learning.errors import ModelFileError
from batchrec_dagster.local_personalize.learning.files import load_arrays, unpack_ids
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.personalization import PersonalizationModel
from batchrec_dagster.local_personalize.learning.popularity import PopularityModel
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended

__all__ = ["Model", "ModelFileError", "Recommended", "load_model"]

MODELS: tuple[type[PersonalizationModel] | type[PopularityModel], ...] = (
    PersonalizationModel,
    PopularityModel,
)


class Model(Protocol):
    """A trained model: knows its items by id, and scores users from their interactions."""

    @property
    def item_ids(self) -> Ids:
        """(n_items,) distinct str, the most popular first."""

    @property
    def has_scores(self) -> bool:
        """Whether the recipe's batch output carries scores (aws-popularity-count's does not)."""

    def save(self, folder: Path) -> None:
        """Write the model into the folder: plain arrays and a manifest."""

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """Yield lists of `num_results` for all users, in chunks, in the order given.

        `interactions` are the data set's of now: histories come from there, also of users that
        the training did not see. Users without any get the popular items. `forbid` takes items
        out of the lists, not out of the softmax. Lists that run out of items are padded: item
        -1, score 0.
        """


def load_model(folder: Path) -> Model:
    """The model that `save` wrote. Raises ModelFileError when a file is missing or damaged."""
    kind, arrays, facts = load_arrays(folder)
    for model in MODELS:
        if model.kind == kind:
            try:
                return model.load(unpack_ids(arrays), arrays, facts)
            except (KeyError, ValueError) as error:
                raise ModelFileError(f"the model in {folder} is not whole: {error}") from error
    raise ModelFileError(f"the model in {folder} is of an unknown kind, {kind!r}")
