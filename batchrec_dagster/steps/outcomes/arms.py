"""The assignment of users to the arms of an experiment, and to groups for confidence intervals.

The arm depends only on a hash of the user id and of the experiment's name and salt. So a user has
the same arm in every run and on every engine. Source: Kohavi, Tang, Xu, "Trustworthy Online
Controlled Experiments" (2020), ch. 4.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.personalize.split import assign_groups

MODEL, CONTROL = "model", "control"


def assign_arm(user: str, experiment: Experiment) -> str:
    """Return the user's arm: MODEL or CONTROL."""
    return (
        CONTROL if _hash_user(user, _build_salt(experiment)) < experiment.control_share else MODEL
    )


def assign_arms(users: pl.Series, experiment: Experiment) -> pl.Series:
    """Return each user's arm, MODEL or CONTROL, in a series named arm."""
    control = _hash_users(users, _build_salt(experiment)) < experiment.control_share
    return pl.Series("arm", np.where(control, CONTROL, MODEL))


class UserGroups:
    """The groups of users for confidence intervals. A hash of the user id decides a user's group.

    The groups are kept, so each user is hashed only once for all periods.
    """

    def __init__(self) -> None:
        self._groups = pl.DataFrame(schema={"user_id": pl.String, "group": pl.Int32})

    def add_to(self, users: pl.DataFrame) -> pl.DataFrame:
        """Return the users with an added column `group`, the number of the user's group.

        users: a table with the column user_id, each user once.
        """
        missing = users.select("user_id").join(self._groups, on="user_id", how="anti")
        groups = assign_groups(missing.get_column("user_id")).astype(np.int32)
        newly_hashed = missing.with_columns(pl.Series("group", groups))
        self._groups = pl.concat([self._groups, newly_hashed])
        return users.join(self._groups, on="user_id")


def _build_salt(experiment: Experiment) -> str:
    return f"{experiment.name}\0{experiment.salt}"


def _hash_users(users: pl.Series, salt: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.fromiter((_hash_user(user, salt) for user in users), np.float64, len(users))


def _hash_user(user: str, salt: str) -> float:
    """Return a number from 0 to below 1 that is uniformly distributed over users."""
    digest = blake2b(f"{salt}\0{user}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48
