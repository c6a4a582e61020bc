"""What a run pays for, remembered in the storage, and kept within the pipeline's budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.personalize.ensure import StartedResource
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.steps.batch_jobs import JobRequest
from batchrec_dagster.steps.checks import CheckResult, FailedChecksError, require_passed
from batchrec_dagster.steps.cost import check_budget
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.paths import (
    PipelineFiles,
    name_spending,
    read_record,
    write_record,
)

# How many runs an asset's record remembers. A re-execution of an older one starts at 0.
RUNS_REMEMBERED = 50

# The parts of a run in an asset's record.
RESERVED, STARTED = "reserved", "started"


@dataclass(frozen=True)
class _StoredCost:
    """A cost in an asset's record."""

    least: float
    most: float
    what: str


# An asset's record: by run and by part, the cost of each resource.
RECORD_SHAPE = dict[str, dict[str, dict[str, _StoredCost]]]


@dataclass(frozen=True)
class Spending:
    """What an asset's step pays for in a run, besides what the run's other steps pay for.

    Each asset has a record of its own, which only the run that holds the step's lease writes. It
    has what was started, and what was about to be: if a run is killed in between, nobody knows
    which it was, so both count. Nothing is recorded of a local Personalize, which costs nothing.
    """

    work: PersonalizeWork
    asset: str
    run: str
    """The id of the first of a run and its retries, which count together."""

    def reserve(
        self, costs: Mapping[str, Cost], later_costs: Sequence[Cost] = ()
    ) -> list[CheckResult]:
        """Check the budget, and note what is about to be started.

        costs: those of what is about to be started, by a name that is the same in a retry.
        later_costs: those of the run's later steps, which are not reserved.
        Raises FailedChecksError if the budget does not allow it, and StorageError.
        """
        all_costs = [*costs.values(), *later_costs]
        if not self.work.ensure.on_aws:
            return self.check(all_costs)
        entry = self._read_entry()
        # What an earlier attempt was about to start, and now need not be started, was started.
        started = {
            **{name: cost for name, cost in entry[RESERVED].items() if name not in costs},
            **entry[STARTED],
        }
        # It is written before the other steps' records are read, because they may run at the same
        # time: of two steps, at least one sees both.
        self._write_entry({RESERVED: _to_json(costs), STARTED: started})
        try:
            return self.check(all_costs, reserved=costs)
        except FailedChecksError:
            self._write_entry({RESERVED: {}, STARTED: started})
            raise

    def check(self, costs: Sequence[Cost], reserved: Collection[str] = ()) -> list[CheckResult]:
        """Check the budget without noting anything.

        reserved: the names of those that are reserved already.
        Raises FailedChecksError if the budget does not allow the costs, and StorageError.
        """
        paid = self._read_paid(reserved) if self.work.ensure.on_aws else []
        checks = check_budget(self.work, costs, paid)
        require_passed(checks)
        return checks

    def start(self, requests: Sequence[JobRequest]) -> list[StartedResource]:
        """The jobs, of which those that do not exist yet were reserved; note what is started.

        Raises PersonalizeError, StorageError.
        """
        started = [request.start() for request in requests]
        self.settle(
            {
                resource.arn: request.cost
                for resource, request in zip(started, requests, strict=True)
                if resource.created
            }
        )
        return started

    def settle(self, costs: Mapping[str, Cost]) -> None:
        """Note what was started instead of what was reserved.

        costs: those of each resource that this run created, by its ARN. A later call may correct
        the cost.
        Raises StorageError.
        """
        if self.work.ensure.on_aws:
            started = self._read_entry()[STARTED]
            self._write_entry({RESERVED: {}, STARTED: {**started, **_to_json(costs)}})

    def read_total(self) -> float:
        """What the run has paid in all its steps so far, in US dollars. Raises StorageError."""
        return read_run_costs(self.work.files).get(self.run, 0.0)

    def find_paying_assets(self) -> set[str]:
        """The assets that the run has already paid for, by the names of their records."""
        return {asset for asset, entry in self._read_all().items() if _list_costs(entry)}

    def _read_paid(self, reserved: Collection[str]) -> list[Cost]:
        """What the run has paid, or is about to, besides what is reserved under these names."""
        own = self._read_entry()
        record = name_spending(self.work.pipeline.list_name, self.asset)
        others = [entry for name, entry in self._read_all().items() if name != record]
        return [
            *(cost for entry in others for cost in _list_costs(entry)),
            *_from_json(
                {name: cost for name, cost in own[RESERVED].items() if name not in reserved}
            ),
            *_from_json(own[STARTED]),
        ]

    def _read_all(self) -> dict[str, dict[str, Any]]:
        """What is recorded of the run, by the name of an asset's record."""
        records = _read_records(self.work.files)
        return {asset: record.get(self.run, {}) for asset, record in records.items()}

    def _read_entry(self) -> dict[str, Any]:
        """What is recorded of the run and the asset."""
        entry = self._read_record().get(self.run, {})
        return {RESERVED: {}, STARTED: {}, **entry}

    def _write_entry(self, entry: Mapping[str, Any]) -> None:
        record = self._read_record()
        if any(entry.values()) or self.run in record:
            record.pop(self.run, None)
            last_runs = [*record.items()][1 - RUNS_REMEMBERED :]
            key = self.work.pipeline.storage_keys.spending(self.asset)
            write_record(self.work.storage, key, {**dict(last_runs), self.run: entry})

    def _read_record(self) -> dict[str, Any]:
        storage, keys = self.work.storage, self.work.pipeline.storage_keys
        return read_record(storage, storage.uri(keys.spending(self.asset)), RECORD_SHAPE)


def read_run_costs(files: PipelineFiles) -> dict[str, float]:
    """What the latest runs have paid, in US dollars, by the id of the first of a run and its
    retries. A run that has paid nothing is not among them. Raises StorageError."""
    costs: dict[str, float] = {}
    for record in _read_records(files).values():
        for run, entry in record.items():
            paid = sum(cost.middle for cost in _list_costs(entry))
            costs[run] = costs.get(run, 0.0) + paid
    return costs


def _read_records(files: PipelineFiles) -> dict[str, dict[str, Any]]:
    """The record of each asset that has paid for anything."""
    storage = files.storage
    infos = storage.store.list(files.uri(files.storage_keys.all_spending))
    return {
        info.uri.rpartition("/")[2].removesuffix(".json"): read_record(
            storage, info.uri, RECORD_SHAPE
        )
        for info in infos
        # Another program may have put a file of its own there.
        if info.uri.endswith(".json")
    }


def find_new_costs(requests: Sequence[JobRequest]) -> dict[str, Cost]:
    """The costs of the jobs that do not exist yet, by what their names start with."""
    return {request.stem: request.cost for request in requests if request.find() is None}


def _to_json(costs: Mapping[str, Cost]) -> dict[str, Any]:
    return {
        name: {"least": cost.least, "most": cost.usd, "what": cost.what}
        for name, cost in costs.items()
    }


def _from_json(costs: Mapping[str, Any]) -> list[Cost]:
    return [Cost(cost["most"], cost["what"], cost["least"]) for cost in costs.values()]


def _list_costs(entry: Mapping[str, Any]) -> list[Cost]:
    return [*_from_json(entry.get(RESERVED, {})), *_from_json(entry.get(STARTED, {}))]
