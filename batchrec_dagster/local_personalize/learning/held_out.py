"""What is saved beside a blend so that it can be updated: a model to measure, and its users."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import HYPERPARAMETERS, Values

from .blend import HELD_OUT, BlendModel
from .choices import EventChoices
from .components import SEQUENCE, SYMMETRIC_COOC, ItemItemScorer
from .interactions import Ids, ModelFileError
from .store import LOAD_ERRORS, load_arrays, pack_ids, save_arrays, unpack_distinct_ids

# Hyperparameters by name. Those of the same name are the same in all recipes.
_HYPERPARAMETERS = {
    name: kind for of_recipe in HYPERPARAMETERS.values() for name, kind in of_recipe.items()
}


def copy_without_users(model: Path, target: Path, users: Collection[str]) -> bool:
    """Copy a saved model, without the users among its held-out ones, and without what was known of
    any tested user.

    Returns False, and copies nothing, if it has none of them.

    model: the model's folder.
    target: an empty folder.
    Raises ModelFileError when a file of the held-out users or of the choices is missing or damaged.
    """
    choices = EventChoices.load(model)
    folder = model / HELD_OUT
    if folder.exists():
        if not _copy_held_out(folder, target / HELD_OUT, users):
            return False
    elif choices is None or choices.attributes is None:
        return False
    for path in model.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    if choices is not None:
        # The choices have no ids, and nothing of which item it was. So nobody can tell which of the
        # attributes are those of an erased user: all go. The next training makes new ones.
        replace(choices, attributes=None).save(target)
    return True


def _copy_held_out(folder: Path, target: Path, users: Collection[str]) -> bool:
    """Copy the folder of held-out users without these; returns False if it has none of them."""
    kind, arrays, facts = load_arrays(folder)
    try:
        ids = unpack_distinct_ids(arrays, "user_")
    except KeyError as error:
        raise ModelFileError(f"{folder} is incomplete: {error}") from error
    except LOAD_ERRORS as error:
        raise ModelFileError(f"{folder} is damaged: {error}") from error
    erased = set(users)
    is_kept = np.array([user not in erased for user in ids], dtype=bool)
    if is_kept.all():
        return False
    save_arrays(target, kind, arrays | pack_ids(ids[is_kept], "user_"), facts)
    return True


@dataclass(frozen=True)
class HeldOut:
    """What an update needs to be measured on the same held-out users as the training before it."""

    model: BlendModel
    """The model trained without the held-out users."""

    users: Ids
    """(held out,) distinct str."""

    hyperparameters: Values

    def save(self, folder: Path) -> None:
        """Write it into the folder, without the weights of co-occurrence.

        An update counts co-occurrence again.
        """
        n = len(self.model.popularity)
        no_weights = ItemItemScorer(csr_matrix((n, n), dtype=np.float32))
        scorers = {
            name: no_weights if name in (SEQUENCE, SYMMETRIC_COOC) else scorer
            for name, scorer in self.model.scorers.items()
        }
        arrays, facts = replace(self.model, scorers=scorers).contents()
        arrays |= pack_ids(self.users, "user_")
        facts["hyperparameters"] = dict(self.hyperparameters)
        save_arrays(folder, HELD_OUT, arrays, facts)

    @classmethod
    def load(cls, model: Path) -> HeldOut | None:
        """What was saved with a model, None if nothing was.

        Raises ModelFileError when a file is missing or damaged.

        model: the model's folder.
        """
        folder = model / HELD_OUT
        if not folder.exists():
            return None
        kind, arrays, facts = load_arrays(folder)
        if kind != HELD_OUT:
            raise ModelFileError(f"{folder} contains {kind!r}, expected {HELD_OUT!r}")
        try:
            test_model = BlendModel.load(arrays, facts)
            values = {
                name: _HYPERPARAMETERS[name].parse(str(value))
                for name, value in facts["hyperparameters"].items()
            }
            return cls(test_model, unpack_distinct_ids(arrays, "user_"), values)
        except KeyError as error:
            raise ModelFileError(f"{folder} is incomplete: {error}") from error
        except LOAD_ERRORS as error:
            raise ModelFileError(f"{folder} is damaged: {error}") from error
