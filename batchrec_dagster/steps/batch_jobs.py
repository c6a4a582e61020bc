"""Names, configurations, filters and output files of the jobs in Personalize."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.personalize.batch_files import OUTPUT_SUFFIX
from batchrec_dagster.personalize.ensure import FILTER, Description, Ensure, Ensured
from batchrec_dagster.personalize.recipes import EVENT_VALUE_THRESHOLD, EVENT_WEIGHTS, FEATURES
from batchrec_dagster.steps.checks import Checked, require
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.object_store import ObjectInfo
from batchrec_dagster.storage.progress import Progress
from batchrec_dagster.storage.resource import StorageResource, storage_errors


def stem(name: str, version: str, force_run: str | None = None) -> str:
    """What the name of a job starts with: the pipeline and the version of its data.

    force_run: id of a run that forces a job of its own; its retries find that job.
    """
    # A name of 32 characters, a number of three digits: the whole stays within Personalize's 63.
    start = f"{name}-{version[:12]}"
    return f"{start}-{force_run[:8]}" if force_run else start


def job_seconds(ensured: Ensured) -> float:
    """Seconds from its creation until it was done, in whichever run that was."""
    times = ensured.description
    seconds: float = (times["lastUpdatedDateTime"] - times["creationDateTime"]).total_seconds()
    return seconds


def solution_name(dataset_group: str, recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """Other settings need another solution: a solution cannot be changed."""
    return f"{dataset_group}-{fingerprint(recipe, hyperparameters)[:8]}"


def solution_config(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """CreateSolution's `solutionConfig`, with each hyperparameter where Personalize wants it."""
    elsewhere = {*FEATURES, EVENT_WEIGHTS, EVENT_VALUE_THRESHOLD}
    algorithm = {key: text for key, text in hyperparameters.items() if key not in elsewhere}
    config: dict[str, Any] = {"algorithmHyperParameters": algorithm}
    if features := {key: text for key, text in hyperparameters.items() if key in FEATURES}:
        config["featureTransformationParameters"] = features
    threshold = hyperparameters.get(EVENT_VALUE_THRESHOLD)
    if EVENT_WEIGHTS in hyperparameters:
        least = {} if threshold is None else {"eventValueThreshold": float(threshold)}
        weights = json.loads(hyperparameters[EVENT_WEIGHTS]).items()
        events = [{"eventType": kind, "weight": weight, **least} for kind, weight in weights]
        config["eventsConfig"] = {"eventParametersList": events}
    elif threshold is not None:
        config["eventValueThreshold"] = threshold
    return config


def outcome(ensured: Ensured, done: str) -> str:
    """`imported` if this run did it, else `unchanged: not imported again`."""
    return done if ensured.created else f"unchanged: not {done} again"


# The name of the object in a job's folder that says why its output is of no use.
DAMAGED = "damaged.txt"
# Bytes of a file to read at once: tens of thousands of users' lines.
PIECE = 16 * 1024 * 1024


def output_folder(job: Description) -> str:
    """Where it writes: the URI of a folder, with its final slash."""
    folder: str = job["jobOutput"]["s3DataDestination"]["path"]
    return folder


def has_output(storage: StorageResource, job: Description) -> bool:
    """Whether a finished job's files are still there, and neither empty nor known to be damaged;
    one under way will write them."""
    if job["status"] != "ACTIVE":
        return True
    if storage.store.head(output_folder(job) + DAMAGED) is not None:
        return False
    sizes = [file.size for file in _files(storage, output_folder(job))]
    return bool(sizes) and all(sizes)


def output_version(storage: StorageResource, jobs: Iterable[Description]) -> str:
    """A fingerprint of the files that the jobs wrote, without reading them."""
    files = [file for job in jobs for file in _files(storage, output_folder(job))]
    return fingerprint(*((file.uri, file.size, file.etag) for file in files))


def mark_damaged(storage: StorageResource, job: Description, reason: str) -> None:
    """Have the next run start another job, as this one's output is of no use."""
    storage.store.put(output_folder(job) + DAMAGED, f"{reason}\n".encode())


def output_files(storage: StorageResource, job: Description) -> list[str]:
    """The URIs of the files that the job wrote, in order. Raises dg.Failure if there are none."""
    folder = output_folder(job)
    files = [file.uri for file in _files(storage, folder)]
    if not files:
        raise dg.Failure(
            f"the batch job left no {OUTPUT_SUFFIX} file in {folder}. Run it again",
            allow_retries=False,
        )
    return files


def output_pieces(
    storage: StorageResource, job: Description, read: Callable[[bytes], pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """All lines that the job wrote, in order, in pieces parsed by `read`: at least one, which may
    be empty. Raises dg.Failure if a file cannot be read."""
    for uri in output_files(storage, job):
        try:
            with storage_errors():
                for piece in whole_lines(storage.store.chunks(uri)):
                    yield read(piece)
        except ValueError as error:
            reason = f"{storage.where(uri)} is damaged: {str(error).partition(chr(10))[0]}"
            mark_damaged(storage, job, reason)
            raise dg.Failure(
                f"{reason}. Run again: another batch job makes it again", allow_retries=False
            ) from error


def require_output(storage: StorageResource, job: Description, checks: Sequence[Checked]) -> None:
    """Raises FailedChecksError if one of the checks of the job's output blocks. If lines are
    missing, the next run starts another job."""
    folder = output_folder(job)
    named = []
    for check in checks:
        if check.blocks and check.name in ("every_user_answered", "every_segment_answered"):
            mark_damaged(storage, job, check.found)
            check = replace(check, found=f"{storage.where(folder)}: {check.found}")
        named.append(check)
    require(named)


def counted(pieces: Iterable[pl.DataFrame], progress: Progress) -> Iterator[pl.DataFrame]:
    """The same pieces; counts the rows of each one after its use."""
    for piece in pieces:
        yield piece
        progress.add(piece.height)
    progress.end()


def whole_lines(chunks: Iterable[bytes], size: int = PIECE) -> Iterator[bytes]:
    """The same bytes in pieces of about `size` bytes that end with a line; one empty piece if
    there are none."""
    waiting, waiting_size, cut = [], 0, False
    for chunk in chunks:
        waiting.append(chunk)
        waiting_size += len(chunk)
        end = chunk.rfind(b"\n") + 1
        if waiting_size >= size and end:
            yield b"".join([*waiting[:-1], chunk[:end]])
            waiting, waiting_size, cut = [chunk[end:]], len(chunk) - end, True
    if waiting_size or not cut:
        yield b"".join(waiting)


def _files(storage: StorageResource, folder: str) -> list[ObjectInfo]:
    return [file for file in storage.store.list(folder) if file.uri.endswith(OUTPUT_SUFFIX)]


def filter_arn(ensure: Ensure, model: ModelRecord, name: str, expression: str, setting: str) -> str:
    """The filter's ARN, created in the model's dataset group if there is none.

    Raises dg.Failure, which names the setting, if Personalize rejects it.
    """
    group = model.dataset_group_arn
    try:
        return ensure.named(
            FILTER,
            f"{model.dataset_group_name}-{name}",
            {"datasetGroupArn": group, "filterExpression": expression},
            datasetGroupArn=group,
        ).arn
    except dg.Failure as failure:
        raise dg.Failure(
            f"{setting}: {failure.description}",
            metadata=failure.metadata,
            allow_retries=False,
        ) from failure
