"""What trained models can do, and how one is read back from its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.blend_model import PersonalizationModel
from batchrec_dagster.local_personalize.learning.interactions import (
    Ids,
    Interactions,
    ModelFileError,
)
from batchrec_dagster.local_personalize.learning.popularity import PopularityModel
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.segmentation import SegmentationModel
from batchrec_dagster.local_personalize.learning.serving import Forbid, Recommended
from batchrec_dagster.local_personalize.learning.store import load_arrays, unpack_ids

__all__ = [
    "AnyModel",
    "ItemModel",
    "ModelFileError",
    "Recommended",
    "SegmentModel",
    "UserModel",
    "load_model",
]

MODELS: tuple[
    type[PersonalizationModel]
    | type[PopularityModel]
    | type[RelatedItemsModel]
    | type[SegmentationModel],
    ...,
] = (PersonalizationModel, PopularityModel, RelatedItemsModel, SegmentationModel)


@runtime_checkable
class Known(Protocol):
    """A trained model: knows its items by id, and has files."""

    @property
    def item_ids(self) -> Ids:
        """(n_items,) distinct str, the most popular first."""

    def save(self, folder: Path) -> None:
        """Write the model into the folder: plain arrays and a manifest."""


@runtime_checkable
class UserModel(Known, Protocol):
    """Scores items for users: user personalization, personalized ranking, popularity count."""

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

    def rank(
        self,
        user_ids: Sequence[str],
        lists: Sequence[npt.NDArray[np.int32]],
        interactions: Interactions,
        *,
        forbid: Forbid | None = None,
    ) -> Iterator[Recommended]:
        """Yield each user's own list, best first, in chunks, in the order given.

        `lists` has distinct positions in `item_ids` for each user. The scores are a softmax over
        what `forbid` leaves of the list, so they sum to 1. A chunk is as wide as its longest
        list; shorter ones are padded: item -1, score 0.
        """


@runtime_checkable
class ItemModel(Known, Protocol):
    """Finds similar items: aws-sims, aws-similar-items."""

    def similar(
        self, item_ids: Sequence[str], num_results: int, *, forbid: Forbid | None = None
    ) -> Iterator[Recommended]:
        """Yield `num_results` similar items for each item, in chunks, in the order given.

        Never the item itself. Where too few are similar, and for an unknown item, the popular
        follow. Scores are 0. Lists that run out of items are padded with item -1.
        """


@runtime_checkable
class SegmentModel(Known, Protocol):
    """Finds users for items: aws-item-affinity, aws-item-attribute-affinity."""

    def segment(
        self,
        queries: Sequence[npt.NDArray[np.int32]],
        interactions: Interactions,
        size: int,
        *,
        users: npt.NDArray[np.bool_] | None = None,
        checkpoint: Callable[[int], None] = lambda _: None,
    ) -> list[npt.NDArray[np.int32]]:
        """For each query the `size` users who like its items best, as indices, best first.

        A query is positions in `item_ids`: of one item, or of all with an attribute. `users` is
        a mask over `interactions.user_ids`, which leaves out users. `checkpoint` is called after
        every chunk with the number of its users. Memory is bounded by queries x size and a chunk.
        """


AnyModel = UserModel | ItemModel | SegmentModel


def load_model(folder: Path) -> AnyModel:
    """The model that `save` wrote. Raises ModelFileError when a file is missing or damaged."""
    kind, arrays, facts = load_arrays(folder)
    for model in MODELS:
        if model.kind == kind:
            try:
                return model.load(unpack_ids(arrays), arrays, facts)
            except (KeyError, ValueError) as error:
                raise ModelFileError(f"the model in {folder} is not whole: {error}") from error
    raise ModelFileError(f"the model in {folder} is of an unknown kind, {kind!r}")
