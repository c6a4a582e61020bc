"""Editions for tests that publish lists without a run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from batchrec_dagster.personalize.evidence import read_ndcg, read_popular_ndcg
from batchrec_dagster.storage.edition import Edition, Withdrawn
from batchrec_dagster.storage.edition_without import write_without
from batchrec_dagster.storage.editions import Editions

# What every edition of lists for users says of itself.
DEFAULTS: Mapping[str, Any] = {
    "address": "shop",
    "number": 1,
    "version": "v",
    "made_at": "2026-05-01T03:00:00+00:00",
    "run": "run",
    "root_run": "run",
    "data_version": "data",
    "recipe": "aws-user-personalization-v2",
    "source": "ratings.csv",
    "measured_on": "interactions",
    "data_until": 0,
    "exclude_seen": True,
}


def make_edition(facts: Mapping[str, Any]) -> Edition:
    """The edition with these facts, by the names of its fields, and a default for the others."""
    stated = {**DEFAULTS, **facts}
    defaults = {
        "live_since": stated["made_at"],
        "live_by": stated["root_run"],
        "made_of": {"all": f"what made {stated['version']}"},
    }
    edition = Edition.model_validate({**defaults, **stated})
    ndcg = read_ndcg(edition)
    measured = {"popular_ndcg": read_popular_ndcg(edition)}
    if ndcg is not None:
        measured |= {"ndcg": ndcg.value, "ndcg_low": ndcg.low, "ndcg_high": ndcg.high}
    return edition.model_copy(update=measured)


class _UncontestedLock:
    """The lock of a test, which no other run takes over."""

    def require_held(self) -> None:
        """It always is."""


ALONE = _UncontestedLock()


def restore(editions: Editions, edition: Edition, time: datetime, run: str = "run") -> None:
    """Make an older edition live again at this time, as a rollback does."""
    live = editions.live()
    assert live is not None
    withdrawn = (*live.withdrawn, Withdrawn(number=live.number))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lists.parquet"
        write_without(
            editions,
            edition,
            pl.lit(value=True),
            path,
            because="rollback",
            live_since=time,
            live_by=run,
            replaced=live.number,
            withdrawn=tuple(lists for lists in withdrawn if lists.number != edition.number),
        )
        editions.publish(path, 9, ALONE)
