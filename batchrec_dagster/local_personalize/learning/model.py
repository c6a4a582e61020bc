"""What trained models can do, and loading one from its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.blend_model import BlendModel, PopularityModel
from batchrec_dagster.local_personalize.learning.interactions import (
    Ids,
    Interactions,
    ModelFileError,
)
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.segmentation import SegmentationModel
from batchrec_dagster.local_personalize.learning.serving import Exclude, Recommended
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
    type[BlendModel] | type[PopularityModel] | type[RelatedItemsModel] | type[SegmentationModel],
    ...,
] = (BlendModel, PopularityModel, RelatedItemsModel, SegmentationModel)


@runtime_checkable
class TrainedModel(Protocol):
    """A trained model: has item ids and can be saved."""

    @property
    def item_ids(self) -> Ids:
        """(n_items,) distinct str, the most popular first."""

    def save(self, folder: Path) -> None:
        """Write the model into the folder: plain arrays and a manifest."""


@runtime_checkable
class UserModel(TrainedModel, Protocol):
    """Scores items for users: user personalization, personalized ranking, popularity count."""

    def recommend(
        self,
        user_ids: Sequence[str],
        interactions: Interactions,
        num_results: int,
        *,
        exclude: Exclude | None = None,
    ) -> Iterator[Recommended]:
        """Yield lists of `num_results` items for all users, in chunks, in the given order.

        Histories come from `interactions`, the current data set, also for users that the model
        was not trained on. Users without a history get the popular items. `exclude` removes items
        from the lists, not from the softmax. Lists that run out of items are padded with item -1
        and score 0.
        """

    def rank(
        self,
        user_ids: Sequence[str],
        lists: Sequence[npt.NDArray[np.int32]],
        interactions: Interactions,
        *,
        exclude: Exclude | None = None,
    ) -> Iterator[Recommended]:
        """Yield each user's own list, best first, in chunks, in the given order.

        `lists` has distinct indices into `item_ids` for each user. The scores are a softmax over
        the items that `exclude` leaves, so they sum to 1. A chunk is as wide as its longest list;
        shorter lists are padded with item -1 and score 0.
        """


@runtime_checkable
class ItemModel(TrainedModel, Protocol):
    """Finds similar items: aws-sims, aws-similar-items."""

    def similar(
        self, item_ids: Sequence[str], num_results: int, *, exclude: Exclude | None = None
    ) -> Iterator[Recommended]:
        """Yield `num_results` similar items for each item, in chunks, in the given order.

        Never the item itself. Popular items follow when too few are similar, and for an unknown
        item. Scores are 0. Lists that run out of items are padded with item -1.
        """


@runtime_checkable
class SegmentModel(TrainedModel, Protocol):
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
        """For each query the indices of the `size` users with the highest affinity, best first.

        A query has indices into `item_ids`: of one item, or of all items with an attribute.
        `users` is a mask over `interactions.user_ids` of the users to consider. `checkpoint` is
        called after every chunk with its number of users. Memory is proportional to queries x
        size, and one chunk.
        """


AnyModel = UserModel | ItemModel | SegmentModel


def load_model(folder: Path) -> AnyModel:
    """Load a saved model. Raises ModelFileError when a file is missing or damaged."""
    kind, arrays, facts = load_arrays(folder)
    for model in MODELS:
        if model.kind == kind:
            try:
                return model.load(unpack_ids(arrays), arrays, facts)
            except (KeyError, ValueError) as error:
                raise ModelFileError(f"the model in {folder} is incomplete: {error}") from error
    raise ModelFileError(f"the model in {folder} has the unknown kind {kind!r}")
