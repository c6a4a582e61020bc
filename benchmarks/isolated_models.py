"""Program that fits models of RecTools and LensKit on a folder's interactions and writes lists.

The program runs in an environment that `isolated.py` builds, and imports nothing of this project.
The folder has `interactions.csv` (the columns user, item and timestamp are numbers), `users.npy`
and `models.json`, a list of [model, options]. `lists-N.npy` has the lists of model N: items, of
shape (users, 25), padded with -1.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

DEPTH = 25
SEED = 0

Lists = npt.NDArray[np.int32]


def sasrec(rows: pd.DataFrame, users: npt.NDArray[np.int64], options: dict[str, Any]) -> Lists:
    """Return lists of RecTools' SASRec (Kang and McAuley 2018) with a softmax over all items."""
    from pytorch_lightning import seed_everything
    from rectools.models import SASRecModel

    seed_everything(SEED, verbose=False)
    model = SASRecModel(
        n_heads=2,
        session_max_len=100,
        lr=3e-3,
        batch_size=32,  # a thousand users give few steps per epoch
        deterministic=True,
        recommend_torch_device="cpu",
        **options,
    )
    return _recommend_by_rectools(model, rows, users)


def pure_svd(rows: pd.DataFrame, users: npt.NDArray[np.int64], options: dict[str, Any]) -> Lists:
    """Return lists of RecTools' PureSVD (Cremonesi, Koren, Turrin 2010)."""
    from rectools.models import PureSVDModel

    return _recommend_by_rectools(PureSVDModel(**options), rows, users)


def _recommend_by_rectools(model: Any, rows: pd.DataFrame, users: npt.NDArray[np.int64]) -> Lists:
    from rectools.dataset import Dataset

    interactions = rows.rename(
        columns={"user": "user_id", "item": "item_id", "timestamp": "datetime"}
    )
    interactions["datetime"] = pd.to_datetime(interactions["datetime"], unit="s")
    data = Dataset.construct(interactions.assign(weight=1.0))
    recommendations = model.fit(data).recommend(
        users=users, dataset=data, k=DEPTH, filter_viewed=True
    )
    out = np.full((len(users), DEPTH), -1, np.int32)
    out[np.searchsorted(users, recommendations["user_id"]), recommendations["rank"] - 1] = (
        recommendations["item_id"]
    )
    return out


def lenskit(kind: str) -> Callable[..., Lists]:
    """Return a function that makes the lists of a LensKit scorer, named by its class."""

    def lists(rows: pd.DataFrame, users: npt.NDArray[np.int64], options: dict[str, Any]) -> Lists:
        from lenskit.als import ImplicitMFScorer
        from lenskit.batch import recommend
        from lenskit.data import from_interactions_df
        from lenskit.knn import ItemKNNScorer, UserKNNScorer
        from lenskit.pipeline import topn_pipeline

        classes = {
            scorer.__name__: scorer for scorer in (ImplicitMFScorer, ItemKNNScorer, UserKNNScorer)
        }
        interactions = rows.rename(columns={"user": "user_id", "item": "item_id"})
        data = from_interactions_df(interactions[["user_id", "item_id"]].drop_duplicates())
        pipeline = topn_pipeline(classes[kind](**options), n=DEPTH)
        pipeline.train(data)
        out = np.full((len(users), DEPTH), -1, np.int32)
        for key, items in recommend(pipeline, users, n_jobs=1).items():
            out[np.searchsorted(users, key.user_id), : len(items)] = items.ids()
        return out

    return lists


MODELS: dict[str, Callable[..., Lists]] = {
    "sasrec": sasrec,
    "pure-svd": pure_svd,
    "lenskit-ials": lenskit("ImplicitMFScorer"),
    "lenskit-item-knn": lenskit("ItemKNNScorer"),
    "lenskit-user-knn": lenskit("UserKNNScorer"),
}


def main(folder: Path) -> None:
    """Write the lists of each model that the folder asks for."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows = pd.read_csv(folder / "interactions.csv")
    users = np.load(folder / "users.npy")
    for number, (name, options) in enumerate(json.loads((folder / "models.json").read_text())):
        began = time.perf_counter()
        np.save(folder / f"lists-{number}.npy", MODELS[name](rows, users, options))
        print(f"{name} {options}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
