"""Small data sets and helpers for the tests of learning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.learning import train_blend
from batchrec_dagster.local_personalize.learning.components import POPULARITY
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.models import AnyModel
from batchrec_dagster.local_personalize.learning.serving import UserModel
from batchrec_dagster.local_personalize.learning.training import TrainedModel
from batchrec_dagster.local_personalize.recipes import train

Row = tuple[str, str, int]  # user, item, epoch seconds

SCHEMA = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}


def interactions_of(rows: Iterable[Row]) -> Interactions:
    """Interactions from (user, item, timestamp) rows."""
    return Interactions.from_frame(pl.DataFrame(list(rows), schema=SCHEMA, orient="row"))


def tastes(users: int = 60, items: int = 40, items_per_user: int = 12, seed: int = 0) -> list[Row]:
    """Rows of users who each prefer one half of the items, the lower-numbered ones more often."""
    rng = np.random.default_rng(seed)
    half = items // 2
    probabilities = 1 / np.arange(1, half + 1) ** 0.7
    rows = []
    for user in range(users):
        own = rng.choice(
            half,
            size=min(items_per_user, half),
            replace=False,
            p=probabilities / probabilities.sum(),
        )
        for place, item in enumerate(own):
            stray = rng.random() < 0.1
            rows.append((f"u{user}", f"i{2 * item + (user + stray) % 2}", 1_000 * user + place))
    return rows


@contextmanager
def popular_blends() -> Iterator[None]:
    """While this is open, trainings of blends select popularity alone."""
    blend = Blend({POPULARITY: 0.0}, {POPULARITY: 1.0}, 0.0)
    with patch.object(train_blend, "select_blend", lambda sets, **_: blend):
        yield


def train_popular(interactions: Interactions) -> TrainedModel:
    """A model of the popular items."""
    with popular_blends():
        return train("aws-user-personalization", interactions, {})


def for_users(model: AnyModel) -> UserModel:
    """The model, which scores items for users."""
    assert isinstance(model, UserModel)
    return model


def lists(
    model: AnyModel, users: Sequence[str], interactions: Interactions, num_results: int
) -> list[list[str]]:
    """The recommended item ids of each user, without padding."""
    return [
        [str(model.item_ids[item]) for item in row if item >= 0]
        for chunk in for_users(model).recommend(users, interactions, num_results)
        for row in chunk.items
    ]


def scores(
    model: AnyModel, users: Sequence[str], interactions: Interactions, num_results: int
) -> npt.NDArray[np.float64]:
    """(users, num_results): the scores of the lists."""
    score_chunks = [
        chunk.scores for chunk in for_users(model).recommend(users, interactions, num_results)
    ]
    return np.concatenate(score_chunks)
