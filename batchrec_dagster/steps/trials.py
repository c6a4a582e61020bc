"""What a trial uses in Personalize and in the storage, and how long it stays.

A trial that reads the same data as its pipeline works in the pipeline's dataset group: what is
imported, trained and inferred already is found there, and what the trial adds is found by the
pipeline if its settings are kept. Other data must not replace the pipeline's, so a trial with other
data has a dataset group of its own.

Each trial has a record of what it uses. It is written before the trial starts, so that the
pipeline's own runs leave that alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.config import fingerprint
from batchrec_dagster.config.trial import Trial
from batchrec_dagster.personalize.evidence import get_solution_metrics, read_compared
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.records import DatasetRecord, ModelRecord
from batchrec_dagster.steps.work import PersonalizeWork, Work
from batchrec_dagster.storage.durable import delete_empty_folders
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys, read_record, write_record

# How many trials of a pipeline are kept, the newest.
TRIALS_KEPT = 3
IMPORT = "personalize_dataset"
# The paths of prepared data in the folder of a pipeline or a trial.
PREPARED_DATA = re.compile(
    r"(lists/\w+/)?transformed/(interactions|items|users|item_titles|batch_users_input)/.+"
    r"|records/size_of_\w+\.json"
)


@dataclass(frozen=True)
class TrialRecord:
    """What is known of a trial that is kept."""

    name: str
    started_at: str
    """When it was last started, in ISO 8601 and UTC."""
    description: str = ""
    """What it changes, in words."""
    dataset_group: str | None = None
    """The name of the dataset group that it works in; None before it has chosen one."""
    resources: Sequence[str] = ()
    """The names of the solutions and filters that it uses there."""


def begin_trial(files: PipelineFiles, trial: Trial, *, has_same_data: bool) -> None:
    """Record that the trial starts, so that it is kept, and copy its data if it prepares none.

    files: those of the trial.
    has_same_data: whether its data are those that the pipeline prepared last.
    Raises StorageError, and StepError if the pipeline has prepared none.
    """
    record = {
        **read_record(files.storage, files.uri(files.storage_keys.trial_record)),
        "name": trial.name,
        "started_at": datetime.now(UTC).isoformat(),
        "description": trial.description,
    }
    write_record(files.storage, files.storage_keys.trial_record, record)
    if has_same_data:
        _copy_prepared_data(files)


def _copy_prepared_data(files: PipelineFiles) -> None:
    """Copy what the pipeline prepared last: with the same data, models are tested on the same
    people, and nothing is imported again.

    files: those of the trial.
    """
    keys, store = files.storage_keys, files.storage.store
    live_root, root = files.uri(f"{keys.pipeline}/"), files.uri(f"{keys.folder}/")
    prepared_paths = _list_prepared_data(store, live_root)
    if not prepared_paths:
        raise StepError(
            f"{keys.pipeline} has prepared no data yet, which a trial needs: run {keys.pipeline}"
            " first"
        )
    # What the same trial had, when it was started on earlier data.
    for path in set(_list_prepared_data(store, root)).difference(prepared_paths):
        store.delete(f"{root}{path}")
    for path in prepared_paths:
        store.copy(f"{live_root}{path}", f"{root}{path}")


def _list_prepared_data(store: ObjectStore, root: str) -> list[str]:
    """The paths of the objects of prepared data, relative to the root.

    root: the URI of the folder of a pipeline or a trial, with its final slash.
    """
    paths: list[str] = []
    for folder in ("transformed/", "lists/", "records/"):
        paths += [info.uri.removeprefix(root) for info in store.list(f"{root}{folder}")]
    return [path for path in paths if PREPARED_DATA.fullmatch(path)]


def choose_dataset_group(work: PersonalizeWork, schemas: str, data_version: str) -> str:
    """The name of the dataset group for data of this version: the pipeline's, or a trial's own.

    schemas: a fingerprint of the schemas.
    Raises StorageError.
    """
    pipeline, trial = work.pipeline, work.pipeline.trial
    name = f"{pipeline.name}-{schemas[:8]}"
    if trial is None:
        return name
    imported = work.live_files.record(IMPORT, DatasetRecord)
    has_same_data = imported.get("data_version") == data_version
    if not has_same_data or imported.get("dataset_group_name") != name:
        name = f"{pipeline.name}-{fingerprint('trial', trial.name, schemas)[:8]}"
    return name


def require_same_data(work: PersonalizeWork, record: DatasetRecord | ModelRecord) -> None:
    """Raise StepError if the pipeline has imported other data since the trial did.

    Both work in one dataset group then, where training and inference read the newest data. Raises
    StorageError too.

    record: that of the trial's data, or of its model.
    """
    if work.pipeline.trial is None:
        return
    imported = work.live_files.record(IMPORT, DatasetRecord)
    is_shared = imported.get("dataset_group_name") == record.dataset_group_name
    if is_shared and imported.get("data_version") != record.data_version:
        raise StepError(
            f"{work.pipeline.name} has imported other data since the trial started: run the trial"
            " again, on these"
        )


def remember_resources(work: Work, group: str, endings: Collection[str]) -> None:
    """Record which dataset group a trial uses, and which solutions and filters in it.

    group: the name of the dataset group.
    endings: what their names end with.
    Raises StorageError.
    """
    if work.pipeline.trial is None:
        return
    key = work.files.storage_keys.trial_record
    record = {
        "name": work.pipeline.trial.name,
        "started_at": datetime.now(UTC).isoformat(),
        **read_record(work.storage, work.files.uri(key)),
        "dataset_group": group,
        "resources": [f"{group}-{ending}" for ending in sorted(endings)],
    }
    write_record(work.storage, key, record)


def compare_models(work: PersonalizeWork, model: ModelRecord) -> dict[str, Any]:
    """For the metadata of a trial's lists: by how much its model is better than that of the
    published lists, for the same people. Empty where nobody measured that.

    Raises StorageError.
    """
    live = work.live_files.table.current() if work.pipeline.trial is not None else None
    # Amazon gives metrics alone.
    if live is None or work.ensure.on_aws:
        return {}
    published_model = live.about.get("solution_version_arn")
    if published_model in (None, model.solution_version_arn):
        return {}
    try:
        answer = get_solution_metrics(
            work.ensure.client,
            model.solution_version_arn,
            model.target_events or (),
            compare_with=published_model,
        )
    except ClientError:
        # It was deleted, for example.
        return {}
    compared = read_compared(answer)
    return {"paired": {"solution_version_arn": published_model, **compared}} if compared else {}


def read_trials(files: PipelineFiles) -> list[TrialRecord]:
    """The trials that are kept, newest first. Raises StorageError.

    files: those of the pipeline, or of one of its trials.
    """
    storage = files.storage
    root = files.uri(files.storage_keys.all_trials)
    path = storage.store.local_path(root)
    if path is not None and not path.exists():
        # Listing the folders would create it.
        return []
    trials = []
    for name in storage.store.subfolders(root):
        keys = StorageKeys(files.storage_keys.pipeline, trial=name)
        record = read_record(storage, files.uri(keys.trial_record))
        trials.append(
            TrialRecord(
                name,
                str(record.get("started_at", "")),
                str(record.get("description", "")),
                record.get("dataset_group"),
                tuple(record.get("resources", ())),
            )
        )
    return sorted(trials, key=lambda trial: trial.started_at, reverse=True)


def delete_old_trials(
    files: PipelineFiles, log: logging.Logger, outputs_in_use: Collection[str] = ()
) -> None:
    """Delete the folders of all but the newest trials.

    files: those of the pipeline.
    outputs_in_use: the URIs of the folders of batch jobs whose output the published lists are made
        from. The pipeline may have adopted the job of a trial.
    Raises StorageError.
    """
    store = files.storage.store
    for trial in read_trials(files)[TRIALS_KEPT:]:
        keys = StorageKeys(files.storage_keys.pipeline, trial=trial.name)
        root, record = files.uri(keys.folder_of_trial), files.uri(keys.trial_record)
        uris = [info.uri for info in store.list(root)]
        unneeded = [uri for uri in uris if not uri.startswith(tuple(outputs_in_use))]
        # The record comes last, so that the next run goes on if this one is killed.
        for uri in sorted(unneeded, key=lambda uri: uri == record):
            store.delete(uri)
        delete_empty_folders(store.local_path(root))
        if unneeded:
            log.info(f"retention: deleted the trial {trial.name}")
