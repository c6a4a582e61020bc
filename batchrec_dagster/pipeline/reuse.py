"""The result that an earlier run stored of an asset, reused while all that it is made of is the
same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.pipeline.run_step import results
from batchrec_dagster.steps.checks import Checked
from batchrec_dagster.storage.object_store import StorageError

# The metadata of a result that can be reused.
MADE_OF = "batchrec/made_of"
# The outcome of most such assets.
PREPARED_BEFORE = "unchanged: not prepared again"
# Metadata that the IO managers add again.
ADDED = ("dagster/uri",)


@dataclass(frozen=True)
class MadeOf:
    """What an asset is made of in this run: its code version, which has its settings, and `inputs`,
    the versions of the rest.

    The asset puts `metadata` into its result; a later run with `earlier` need not make it again.
    """

    context: dg.AssetExecutionContext
    inputs: tuple[str, ...]

    def metadata(self, version: str, checks: Sequence[Checked] = ()) -> dict[str, Any]:
        """For the result that is stored with this version, and its checks."""
        made_of = [self._fingerprint(version), [asdict(check) for check in checks]]
        return {MADE_OF: json.dumps(made_of)}

    def earlier(
        self,
        stored: Callable[[], str | None],
        value: Any,
        outcome: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> dg.MaterializeResult[Any] | None:
        """The newest result in Dagster's history with its checks, if it was made of the same and is
        still stored; else None.

        stored: reads the version of what is stored now, None if that is unknown; metadata: what
        replaces the result's.
        """
        key = self.context.asset_key
        event = self.context.instance.get_latest_materialization_event(key)
        found = event.asset_materialization if event else None
        if found is None or (made_of := found.metadata.get(MADE_OF)) is None:
            return None
        known, verdicts = json.loads(str(made_of.value))
        version = None
        # Missing or damaged, for example: it is made again.
        with suppress(StorageError, ValueError, pl.exceptions.PolarsError):
            version = stored()
        if version is None or known != self._fingerprint(version):
            return None
        kept = {name: shown for name, shown in found.metadata.items() if name not in ADDED}
        return dg.MaterializeResult(
            value=value,
            data_version=dg.DataVersion(version),
            metadata={
                **kept,
                "outcome": outcome,
                **(metadata or {}),
            },
            check_results=results([Checked(**one) for one in verdicts]),
        )

    def _fingerprint(self, version: str) -> str:
        code = self.context.assets_def.specs_by_key[self.context.asset_key].code_version
        return fingerprint(code, *self.inputs, version)
