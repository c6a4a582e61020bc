"""Records of the runs that published nothing: refused, failed, stopped, or without anything new.

The record of publications has what was live. These records have the other nights, so that they are
still known when Dagster has deleted its runs, and on another machine. They contain no data of users
and no messages. Each step of a run writes an object of its own, because steps and runs may end at
the same time, and nothing else in the storage can be changed by two of them safely.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.objects import ObjectNotFoundError

# The runs of a year and a month are remembered. There are more only where runs fail by the hour.
MOST_RUNS = 400

Ending = Literal["refused", "failed", "stopped", "unchanged"]


@dataclass(frozen=True)
class UnpublishedRun:
    """How a run ended that published nothing, as one of its steps recorded it."""

    run: str
    """The id of the first of a run and its retries."""
    ending: Ending
    """`refused` if a check failed, `unchanged` if there was nothing new to publish."""
    time: datetime
    step: str
    """The name of the asset whose step ended the run."""
    checks: tuple[str, ...] = ()
    """The names of the checks that failed."""
    ndcg: float | None = None
    """The NDCG@25 of the model whose lists were refused; None if there was none."""
    ndcg_low: float | None = None
    ndcg_high: float | None = None
    cost_usd: float | None = None
    """What the run had paid; None if that is not known."""
    seconds: float | None = None
    """How long the run took; None if that is not known."""


_RUN = TypeAdapter(UnpublishedRun)


@dataclass(frozen=True)
class UnpublishedRuns:
    """Reads and writes the records. Its methods raise UserError."""

    files: ListFiles

    def read(self) -> list[UnpublishedRun]:
        """The recorded endings, oldest first. A damaged record is passed over.

        Of a list they are those of its own steps, and of the steps that all lists need.
        """
        keys = self.files.keys
        folders = {keys.all_unpublished_runs, ListKeys(keys.pipeline).all_unpublished_runs}
        runs = []
        for uri in (uri for folder in sorted(folders) for uri in self._list(folder)):
            with suppress(ObjectNotFoundError, ValidationError):
                runs.append(_RUN.validate_json(self.files.storage.store.get(uri)))
        return sorted(runs, key=lambda run: run.time)

    def add(self, run: UnpublishedRun) -> None:
        """Record the ending, and forget the oldest ones if there are too many."""
        store = self.files.storage.store
        store.put(self._locate(run.run, run.step), _RUN.dump_json(run, indent=2) + b"\n")
        for uri in self._list(self.files.keys.all_unpublished_runs)[:-MOST_RUNS]:
            store.delete(uri)

    def remove(self, run: str, step: str) -> None:
        """Forget that the step ended this run, because a retry of it succeeded."""
        self.files.storage.store.delete(self._locate(run, step))

    def _list(self, folder: str) -> list[str]:
        """The URIs of the records in the folder, the one that was written first comes first."""
        infos = self.files.storage.store.list(self.files.uri(folder))
        records = [info for info in infos if info.uri.endswith(".json")]
        return [info.uri for info in sorted(records, key=lambda info: info.last_modified)]

    def _locate(self, run: str, step: str) -> str:
        return self.files.uri(self.files.keys.unpublished_run(run, step))
