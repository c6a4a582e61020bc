"""Deletes what no kept edition needs, after each publication and rollback.

It finds what to delete by what is stored, not by what the last run did. So a run goes on where a
killed one stopped, and deletes nothing twice. The lists are published already: what cannot be
deleted is named in the log, and the next run tries again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.expired_models import expire_models
from batchrec_dagster.personalize.resource_kinds import (
    BATCH_INFERENCE_JOB,
    BATCH_SEGMENT_JOB,
    IMPORT_JOB,
    ResourceKind,
)
from batchrec_dagster.personalize.teardown import is_busy
from batchrec_dagster.steps.batch_jobs import DAMAGED
from batchrec_dagster.steps.records import DatasetRecord
from batchrec_dagster.steps.shared_jobs import locate_input
from batchrec_dagster.steps.work import PersonalizeWork, Work, list_removed_lists
from batchrec_dagster.storage.durable import delete_empty_folders
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListKeys
from batchrec_dagster.storage.records import load


def delete_unneeded(work: PersonalizeWork, job_in_use: str | None = None) -> None:
    """Delete what no kept edition and no job under way needs.

    These are outputs of batch inference jobs, what removed blocks of the declaration left, and
    models. The caller holds the lock of the asset `recommendations`, so that no other run adopts a
    job whose output is being deleted. Of several lists, others may be made at the same time, or
    later in the run: so outputs stay that are made of the newest data.

    job_in_use: the ARN of the job that this run's lists were made from, if there was one.
    """
    with _log_failures(work, "outputs of batch inference jobs"):
        _delete_inference_outputs(work, job_in_use)
    with _log_failures(work, "what removed settings left"):
        _delete_undeclared(work)
    with _log_failures(work, "models"):
        expire_models(work.ensure, work.pipeline.name, work.pipeline.retention.models)


def delete_unneeded_segments(work: PersonalizeWork, job_in_use: str) -> None:
    """Delete the outputs of all batch segment jobs but this one and those under way.

    The caller holds the lock of the asset `user_segments`.

    job_in_use: the ARN of the job that the stored segments were made from.
    """
    folder = work.pipeline.keys.job_output("batch_segments")
    with _log_failures(work, "outputs of batch segment jobs"):
        _delete_outputs(work, BATCH_SEGMENT_JOB, folder, {_read_job_name(job_in_use)})


def delete_unneeded_similar_items(
    work: PersonalizeWork, published: PublishedList, job_in_use: str | None = None
) -> None:
    """Delete the outputs of jobs of similar items that no kept edition of these lists was made
    from, apart from those of jobs under way.

    The caller holds the lock of the asset `similar_items`.

    job_in_use: the ARN of the job that this run's lists were made from, if there was one.
    """
    with _log_failures(work, "outputs of batch inference jobs of similar items"):
        folder = work.pipeline.keys.job_output("batch_similar_items")
        names = _name_jobs(work.files_of(published).editions.live_and_older(), job_in_use)
        _delete_outputs(work, BATCH_INFERENCE_JOB, folder, names)


@contextmanager
def _log_failures(work: PersonalizeWork, what: str) -> Iterator[None]:
    """A block whose expected errors are only logged."""
    try:
        yield
    except (UserError, ClientError, BotoCoreError, OSError) as error:
        work.ensure.log.warning(
            f"retention: {what} could not be deleted, and the next run tries again: {error}"
        )


def _delete_inference_outputs(work: PersonalizeWork, job_in_use: str | None) -> None:
    folder = work.pipeline.keys.job_output("batch_inference")
    names = _name_jobs(_list_kept_editions(work), job_in_use)
    since = _find_import_time(work) if work.pipeline.lists else None
    _delete_outputs(work, BATCH_INFERENCE_JOB, folder, names, since)


def _list_kept_editions(work: Work) -> Iterator[Edition]:
    """The published and the older editions of all lists of the pipeline."""
    for published in work.pipeline.user_lists:
        yield from work.files_of(published).editions.live_and_older()


def _find_import_time(work: PersonalizeWork) -> datetime | None:
    """When the newest import of the data started; None if it is not known.

    Raises botocore's ClientError.
    """
    uri = work.files.record_uri("personalize_dataset")
    record = load(work.storage.store, uri, DatasetRecord)
    imports = record.imports.values() if record is not None else ()
    jobs = [work.ensure.describe(IMPORT_JOB, file.import_job_arn) for file in imports]
    return max((job["creationDateTime"] for job in jobs), default=None)


def _name_jobs(editions: Iterable[Edition], job: str | None) -> set[str]:
    """The names of this job and of those that the editions were made from, by their ARNs."""
    arns = {job, *(edition.job_arn for edition in editions)}
    return {_read_job_name(str(arn)) for arn in arns if arn is not None}


def _read_job_name(arn: str) -> str:
    return arn.rpartition("/")[2]


def _delete_outputs(
    work: PersonalizeWork,
    kind: ResourceKind,
    folder: str,
    names_in_use: Collection[str],
    since: datetime | None = None,
) -> None:
    """Delete the outputs of the jobs of this kind, except those in use or under way.

    folder: the storage key of their outputs.
    names_in_use: the names of jobs whose outputs stay.
    since: the outputs of jobs that were created from then on stay too; None for no such time.
    """
    store, root = work.storage.store, work.files.uri(folder)
    names = {info.uri.removeprefix(root).partition("/")[0] for info in store.list(root)}
    if store.local_path(root) is not None:
        # A killed run may have left an empty folder, which S3 does not have.
        names.update(store.subfolders(root))
    names.difference_update(names_in_use)
    if not names:
        return
    needed = {
        job[kind.name]
        for job in work.ensure.list(kind)
        if is_busy(job) or (since is not None and job["creationDateTime"] >= since)
    }
    unneeded = sorted(names - needed)
    for name in unneeded:
        _delete_output(work, f"{root}{name}/")
    if unneeded:
        work.ensure.log.info(f"retention: deleted the outputs of {len(unneeded):,} batch jobs")


def _delete_output(work: Work, folder: str) -> None:
    """Delete a job's output. Until it is gone it is marked, so that no run adopts a part of it."""
    store, marker = work.storage.store, folder + DAMAGED
    uris = [info.uri for info in store.list(folder)]
    if uris:
        store.put(marker, b"no kept edition needs it: it is being deleted\n")
        _delete_objects(work, [uri for uri in uris if uri != marker])
        store.delete(marker)
    delete_empty_folders(store.local_path(folder))


def _delete_undeclared(work: PersonalizeWork) -> None:
    """Delete what was made for blocks that the declaration no longer has."""
    pipeline, keys, store = work.pipeline, work.pipeline.keys, work.storage.store
    undeclared = [*_list_undeclared_prefixes(pipeline), *_list_prefixes_of_removed_lists(work)]
    prefixes = [work.files.uri(prefix) for prefix in undeclared]
    uris = [info.uri for prefix in prefixes for info in store.list(prefix)]
    if not uris:
        return
    _delete_objects(work, uris)
    shared_folders = [
        work.files.uri(key) for key in (ListKeys(pipeline.name).all_arm_users, keys.lists)
    ]
    for folder in [prefix.rpartition("/")[0] for prefix in prefixes] + shared_folders:
        delete_empty_folders(store.local_path(folder))
    work.ensure.log.info(f"retention: deleted {len(uris):,} files of settings that were removed")


def _list_undeclared_prefixes(pipeline: Pipeline) -> Iterator[str]:
    """What the keys start with of files that the pipeline made for blocks which are gone."""
    from batchrec_dagster.steps.arms import MODEL  # NumPy

    keys = pipeline.keys
    if pipeline.items is None:
        yield keys.raw("items")
        yield keys.record("raw_items")
        yield keys.items
        yield keys.record("items")
    if pipeline.users is None:
        yield keys.raw("users")
        yield keys.record("raw_users")
        yield keys.users
        yield keys.record("users")
    if not pipeline.has_titles:
        yield keys.item_titles
        yield keys.record("item_titles")
    if pipeline.segments is None:
        yield keys.job_input("batch_segments")
        yield keys.user_segments
        yield keys.job_output("batch_segments")
        yield keys.record("segment_solution_version")
    if pipeline.similar_items is None:
        yield keys.job_input("batch_similar_items")
    if pipeline.similar_items_recipe is None:
        yield keys.job_output("batch_similar_items")
        yield keys.record("similar_items_solution_version")
    user_lists = pipeline.user_lists
    inputs_in_use = {locate_input(published) for published in user_lists}
    # Lists that share a job share its users, in the folder of the pipeline.
    list_keys = (ListKeys(pipeline.name), *(published.keys for published in user_lists))
    folders = dict.fromkeys(keys_of_list.all_arm_users for keys_of_list in list_keys)
    for folder in folders:
        if folder not in inputs_in_use:
            yield f"{folder}{MODEL}/"
    if all(published.has_own_users for published in user_lists):
        yield keys.job_input("batch_inference")
        yield keys.record("batch_users")
    for published in user_lists:
        if published.name and not published.has_own_users:
            yield published.keys.users_of_list
            yield published.keys.list_record("batch_users")


def _list_prefixes_of_removed_lists(work: Work) -> Iterator[str]:
    """The same for lists that the declaration no longer has.

    What they published stays, as that of a removed pipeline does: readers may still use it.
    """
    for name in list_removed_lists(work):
        yield f"{work.files.keys.lists}{name}/transformed/"


def _delete_objects(work: Work, uris: Iterable[str]) -> None:
    for uri in uris:
        work.storage.store.delete(uri)
