"""Editions for tests that publish lists without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import mul
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from batchrec_dagster.editions.edition import Edition, Finding, Withdrawn
from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.editions.without_users import write_without
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.measured_ndcg import (
    STANDARD_ERRORS,
    GroupSums,
    MeasuredPopularity,
)
from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.storage.layout import ListKeys

Files = ListFiles
"""The files of a list."""

# The default facts of an edition of lists for users.
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
    """Return an edition with these facts, and defaults for its other fields.

    If the facts have no `ndcg`, it is the mean of `groups`, or else the NDCG of `metrics`.

    facts: values by the names of the edition's fields.
    """
    stated = {**DEFAULTS, **facts}
    defaults = {
        "live_since": stated["made_at"],
        "live_by": stated["root_run"],
        "made_of": {"all": f"what made {stated['version']}"},
    }
    edition = Edition.model_validate({**defaults, **stated})
    if edition.ndcg is not None:
        return edition
    ndcg = edition.groups.mean if edition.groups is not None else None
    if ndcg is None and NDCG in edition.metrics:
        ndcg = Estimate(value=edition.metrics[NDCG])
    return edition.model_copy(update={"ndcg": ndcg})


def make_groups(
    mean: float, margin: float | None = None, users: int = 200, pattern: int = 0
) -> GroupSums:
    """Return sums of NDCG over groups of tested users, with this mean.

    margin: about half the width of the mean's 95% interval; None for no interval.
    pattern: the number of a pattern of high and low groups. Sums with different patterns do not
        correlate over the groups.
    """
    if margin is None or not users:
        return GroupSums(users=(users, *[0] * 99), ndcg=(users * mean, *[0.0] * 99))
    sizes = [users // 100 + (group < users % 100) for group in range(100)]
    spread = margin / STANDARD_ERRORS * (sum(size > 0 for size in sizes) - 1) ** 0.5
    signs = [1 - 2 * (group >> pattern & 1) for group in range(100)]
    values = [mean + sign * spread for sign in signs]
    shift = mean - sum(map(mul, sizes, values)) / users
    sums = [size * (value + shift) for size, value in zip(sizes, values, strict=True)]
    return GroupSums(users=tuple(sizes), ndcg=tuple(sums))


def make_popularity(
    mean: float, margin: float | None = None, users: int = 200, days: int | None = None
) -> MeasuredPopularity:
    """Return the NDCG that recommending popular items reaches.

    mean, margin, users: as in `make_groups`.
    days: the number of last days that popularity is computed from; None for all time.
    """
    groups = make_groups(mean, margin, users, pattern=1)
    return MeasuredPopularity(days=days, groups=groups)


class _UncontestedLock:
    """A lock for tests, which no other run takes over."""

    def require_held(self) -> None:
        """Do nothing: the lock is always held."""


ALONE = _UncontestedLock()


def restore(editions: Editions, edition: Edition, time: datetime, run: str = "run") -> None:
    """Make this older edition live again at this time, as a rollback does."""
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


def publish_rows(
    files: ListFiles, rows: pl.DataFrame, *, row_group_rows: int = 100, keep: int = 7, **facts: Any
) -> None:
    """Publish these rows as the next edition of a list, without a run.

    rows: the rows of the lists, ordered by user.
    row_group_rows: the number of rows that are written at once.
    keep: the number of earlier editions to keep.
    facts: values of the edition's fields, by their names.
    """
    number = files.editions.next_number()
    users = rows.get_column(rows.columns[0]).n_unique()
    counts = {"rows": rows.height, "subjects": users, **facts.pop("counts", {})}
    stated = {
        "address": files.keys.address,
        "number": number,
        "version": f"v{number}",
        "counts": counts,
    }
    with TemporaryDirectory() as folder, ListWriter(Path(folder) / "lists.parquet") as writer:
        for start in range(0, rows.height, row_group_rows):
            part = rows.slice(start, row_group_rows)
            writer.write(part.to_arrow(compat_level=pl.CompatLevel.oldest()))
        writer.finish(make_edition({**stated, **facts}))
        files.editions.publish(writer.path, keep, ALONE)


def open_list(home: Path, address: str) -> ListFiles:
    """Return the files of a list in the storage below this batchrec home."""
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(home)})
    return ListFiles(deployment.open_storage(), ListKeys(address))


def write_interactions(files: ListFiles, rows: Sequence[tuple[str, str, int]]) -> None:
    """Write the interactions that a run prepares from these users, items and times."""
    table = pl.DataFrame(rows, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")
    files.storage.store.put(files.interactions, table.write_csv().encode())


def write_titles(files: ListFiles, titles: Mapping[str, str | None]) -> None:
    """Write titles by item id, as a run prepares them."""
    schema = {"item_id": pl.String, "title": pl.String}
    table = pl.DataFrame([*titles.items()], schema=schema, orient="row")
    files.write_parquet(files.keys.item_titles, table)


def restore_edition(files: ListFiles, number: int, time: datetime) -> None:
    """Make the edition with this number live again at this time, as a rollback does."""
    (edition,) = [edition for edition in files.editions.older() if edition.number == number]
    restore(files.editions, edition, time)


def write_absent(files: ListFiles, version: str, users: Mapping[str, str | None]) -> None:
    """Write the users without a list in an edition.

    users: Personalize's error for each user id; None if there was no error.
    """
    schema = {"user_id": pl.String, "error": pl.String}
    table = pl.DataFrame([*users.items()], schema=schema, orient="row")
    files.write_parquet(files.keys.users_without_lists(version), table)


def delete_interactions(files: ListFiles) -> None:
    """Delete the interactions that a run prepared."""
    files.storage.store.delete(files.interactions)


def record_night(
    files: ListFiles, time: datetime, ended: Any, step: str, run: str, **facts: Any
) -> None:
    """Record a night that ended in this step and published nothing."""
    if "ndcg" in facts:
        facts["ndcg"] = Estimate(value=facts["ndcg"])
    night = Night(run=run, ended=ended, time=time, steps=(step,), **facts)
    files.editions.add_night(night)


def make_finding(name: str, level: Any, headline: str) -> Finding:
    """Return a check's finding, with the headline as its text."""
    return Finding(name, level, headline, headline)
