"""RecTools and LensKit as peers. Their packages need another version of NumPy than this project.

isolated_models.py runs them in a separate environment, which is built once. The models are fitted
on the training users and on the histories of the held-out users, because they can recommend to
known users only. All other models see the held-out users' histories only when they recommend.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import GivenLists
from report import RESULTS

from batchrec_dagster.local_personalize.engine.data import order_by_popularity
from batchrec_dagster.local_personalize.engine.evaluate import HeldOut

ENVIRONMENT = RESULTS / "isolated"
PACKAGES = Path(__file__).with_name("isolated.in")
PROGRAM = Path(__file__).with_name("isolated_models.py")


@dataclass(frozen=True)
class IsolatedModel:
    """A model of isolated_models.py, with the values to try for each option (the grid)."""

    model: str
    grid: Mapping[str, Sequence[Any]]

    def list_choices(self) -> list[dict[str, Any]]:
        """Return all combinations of the grid."""
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]


ISOLATED: Mapping[str, IsolatedModel] = {
    "SASRec (RecTools)": IsolatedModel(
        "sasrec",
        {"n_factors": (64,), "n_blocks": (1,), "epochs": (10, 20), "dropout_rate": (0.3, 0.5)},
    ),
    "PureSVD (RecTools)": IsolatedModel("pure-svd", {"factors": (8, 16, 32, 64, 128)}),
    "iALS (LensKit)": IsolatedModel(
        "lenskit-ials",
        {
            "embedding_size": (32, 64),
            "weight": (2.0, 10.0, 40.0),
            "regularization": (3.0, 10.0, 30.0),
        },
    ),
    "item-kNN (LensKit)": IsolatedModel(
        "lenskit-item-knn", {"feedback": ("implicit",), "max_nbrs": (20, 50, 100, 200)}
    ),
    "user-kNN (LensKit)": IsolatedModel(
        "lenskit-user-knn", {"feedback": ("implicit",), "max_nbrs": (20, 50, 100, 200)}
    ),
}


def find_python() -> Path:
    """Return the environment's interpreter, and build the environment if it is missing."""
    program = ENVIRONMENT / "bin" / "python"
    # The file is copied last, so that its presence marks a finished environment.
    packages_marker = ENVIRONMENT / PACKAGES.name
    if not packages_marker.exists() or packages_marker.read_text() != PACKAGES.read_text():
        print("building the environment of RecTools and LensKit", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        subprocess.run([program, "-m", "pip", "install", "--quiet", "-r", PACKAGES], check=True)
        packages_marker.write_text(PACKAGES.read_text())
    return program


def fit_lists(
    held_out: HeldOut, models: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[GivenLists]:
    """Return the lists for the held-out users, for each model and its options."""
    train, inputs = held_out.train, held_out.inputs
    order = order_by_popularity(train)
    item = np.full(len(train.item_ids), len(order), np.int32)  # nobody had the remaining items
    item[order] = np.arange(len(order), dtype=np.int32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = [
            np.concatenate(part)
            for part in (
                (train.users, inputs.users),
                (item[train.items], item[inputs.items]),
                (train.timestamps, inputs.timestamps),
            )
        ]
        np.savetxt(
            folder / "interactions.csv",
            np.stack(columns, axis=1),
            fmt="%d",
            delimiter=",",
            header="user,item,timestamp",
            comments="",
        )
        np.save(folder / "users.npy", held_out.users.astype(np.int64))
        (folder / "models.json").write_text(json.dumps(models))
        subprocess.run([find_python(), PROGRAM, folder], check=True, stdout=subprocess.DEVNULL)
        lists = [np.load(folder / f"lists-{number}.npy") for number in range(len(models))]
    return [GivenLists(train.item_ids[order], user_lists) for user_lists in lists]
