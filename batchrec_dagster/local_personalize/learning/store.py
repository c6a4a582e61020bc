"""Interactions on disk: the ids apart from the numbers, and the numbers mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from batchrec_dagster.local_personalize.learning.errors import ModelFileError
from batchrec_dagster.local_personalize.learning.files import (
    load_arrays,
    pack_ids,
    save_arrays,
    unpack_ids,
)
from batchrec_dagster.local_personalize.learning.interactions import (
    Ids,
    Int32,
    Interactions,
    in_order,
    positions,
)

KIND = "interactions"
IDS = ("user", "item")
NUMBERS = ("users", "items", "timestamps")


def save(interactions: Interactions, folder: Path) -> None:
    """Write them into the folder: 16 bytes an interaction, and the ids."""
    arrays = {name: getattr(interactions, name) for name in NUMBERS}
    for whose, ids in zip(IDS, (interactions.user_ids, interactions.item_ids), strict=True):
        arrays |= {f"{whose}_{name}": array for name, array in pack_ids(ids).items()}
    save_arrays(folder, KIND, arrays, {})


def load(folder: Path) -> Interactions:
    """What was saved; the numbers stay in their files.

    Raises ModelFileError when a file is missing or damaged.
    """
    kind, arrays, _ = load_arrays(folder, mapped=True)
    if kind != KIND:
        raise ModelFileError(f"{folder} holds {kind!r}, not {KIND!r}")
    try:
        user_ids, item_ids = (
            unpack_ids({name: arrays[f"{whose}_{name}"] for name in ("id_bytes", "id_ends")})
            for whose in IDS
        )
        users, items, timestamps = (arrays[name] for name in NUMBERS)
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"what {folder} holds is not whole: {error}") from error
    return Interactions(user_ids, item_ids, users, items, timestamps)


def joined(parts: Sequence[Interactions]) -> Interactions:
    """All rows of all parts, over the ids of all."""
    if len(parts) == 1:
        return parts[0]
    user_ids, users = _over_all([part.user_ids for part in parts], [part.users for part in parts])
    item_ids, items = _over_all([part.item_ids for part in parts], [part.items for part in parts])
    timestamps = np.concatenate([part.timestamps for part in parts])
    coded = pl.DataFrame({"users": users, "timestamps": timestamps, "items": items})
    return Interactions(user_ids, item_ids, *in_order(coded, len(user_ids)))


def _over_all(ids: Sequence[Ids], numbers: Sequence[Int32]) -> tuple[Ids, Int32]:
    """The distinct ids of all, by code point, and all the numbers as indices into them."""
    together = np.array(sorted(set().union(*ids)), dtype=object)
    return together, np.concatenate(
        [positions(together, own)[at] for own, at in zip(ids, numbers, strict=True)]
    )
