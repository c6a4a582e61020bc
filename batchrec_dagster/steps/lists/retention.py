"""The deletion of files and models that no kept edition needs, after each publication and rollback.

Each run looks for unneeded objects in the storage and in Personalize, and does not rely on a record
of the last run. So a run continues where a killed run stopped, and deletes nothing twice. The lists
are published already, so a failed deletion is only logged, and the next run tries again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.api import IMPORT_JOB
from batchrec_dagster.personalize.cleanup import is_busy, prune
from batchrec_dagster.personalize.expired_models import expire_models
from batchrec_dagster.steps.context import StepContext, list_removed_lists
from batchrec_dagster.steps.lists.job import list_endings_in_use
from batchrec_dagster.steps.lists.job_output import DAMAGED
from batchrec_dagster.steps.records import read_dataset
from batchrec_dagster.storage.durable import delete_empty_folders
from batchrec_dagster.storage.layout import SEGMENTS, ListKeys


def delete_unneeded(step: StepContext, published: ListTable, job_in_use: str | None = None) -> None:
    """Delete the outputs of batch jobs that no kept edition and no unfinished job needs.

    For a list of users, also delete the files that removed blocks of the declaration left,
    and models that have expired. The caller holds the lock of the list, so that no other run
    adopts a job while its output is being deleted. If lists share jobs, other lists may be made
    from the same output at the same time or later in the run. So outputs of the newest data stay.

    job_in_use: the ARN of the job that this run's lists were made from, if there was one.
    """
    with _log_failures(step, "outputs of batch jobs"):
        _delete_outputs(step, published, job_in_use)
    if not published.is_for_people:
        return
    with _log_failures(step, "what removed settings left"):
        _delete_undeclared(step)
    with _log_failures(step, "models"):
        expire_models(step.resources, step.pipeline.name, step.pipeline.retention.models)


def prune_personalize(step: StepContext, group: str) -> None:
    """Delete the resources in Personalize that earlier settings created and no setting needs.

    For each list, one other dataset group stays: the latest that a kept edition was made from. An
    error is only logged, because the lists are already published.

    group: the name of the current dataset group.
    """
    log = step.resources.log
    in_use = {f"{group}-{ending}" for ending in list_endings_in_use(step.pipeline)}
    try:
        other_groups = {
            name
            for published in step.pipeline.user_lists
            for name in _find_last_group(step.files_of(published).editions.kept(), group)
        }
        for resource in prune(step.resources, step.pipeline.name, group, in_use, other_groups):
            log.info(f"deleted {resource}, which earlier settings left")
    except (UserError, ClientError) as error:
        log.warning(f"what earlier settings left in Personalize is still there: {error}")


def _find_last_group(editions: Sequence[Edition], group: str) -> list[str]:
    """Return the latest dataset group, besides the given group, that an edition was made from.

    The result is a list with one name. It is empty if there is no other group.

    editions: the editions, newest first.
    group: the name of the given dataset group.
    """
    # The name of an edition's solution starts with the name of its dataset group.
    versions = (str(edition.solution_version_arn) for edition in editions)
    groups = [version.split("/")[1].rpartition("-")[0] for version in versions if "/" in version]
    return [name for name in groups if name != group][:1]


@contextmanager
def _log_failures(step: StepContext, what: str) -> Iterator[None]:
    """Run a block, and log its expected errors as warnings instead of raising them."""
    try:
        yield
    except (UserError, ClientError, BotoCoreError, OSError) as error:
        step.resources.log.warning(
            f"retention: {what} could not be deleted, and the next run tries again: {error}"
        )


def _find_import_time(step: StepContext) -> datetime | None:
    """Return the start of the newest import of the data; None if it is not known.

    Raises botocore's ClientError.
    """
    record = read_dataset(step.files)
    imports = record.imports.values() if record is not None else ()
    jobs = [step.resources.describe(IMPORT_JOB, file.import_job_arn) for file in imports]
    return max((job["creationDateTime"] for job in jobs), default=None)


def _name_jobs(editions: Iterable[Edition], job: str | None) -> set[str]:
    """Return the names of this job and of the jobs that the editions were made from.

    job: the ARN of the job.
    """
    arns = {job, *(edition.job_arn for edition in editions)}
    return {str(arn).rpartition("/")[2] for arn in arns if arn is not None}


def _delete_outputs(step: StepContext, published: ListTable, job_in_use: str | None) -> None:
    """Delete the outputs of batch jobs for this kind of list that nothing needs.

    Outputs stay if a kept edition or the current run uses them, or if their job is unfinished.
    Several lists of users may share jobs. So if the pipeline has several, their outputs of jobs
    created since the newest import stay too.

    Raises UserError, ClientError, BotoCoreError or OSError.
    """
    pipeline, kind = step.pipeline, published.job_kind
    folder = pipeline.keys.job_output(published.job_folder)
    sharing = pipeline.user_lists if published.is_for_people else [published]
    editions = [step.files_of(other).editions.live_and_older() for other in sharing]
    names_in_use = _name_jobs(chain.from_iterable(editions), job_in_use)
    since = _find_import_time(step) if len(sharing) > 1 else None
    store, root = step.storage.store, step.files.uri(folder)
    names = {info.uri.removeprefix(root).partition("/")[0] for info in store.list(root)}
    if store.local_path(root) is not None:
        # A killed run may have left an empty folder. S3 has no empty folders.
        names.update(store.subfolders(root))
    names.difference_update(names_in_use)
    if not names:
        return
    needed = {
        job[kind.name]
        for job in step.resources.list(kind)
        if is_busy(job) or (since is not None and job["creationDateTime"] >= since)
    }
    unneeded = sorted(names - needed)
    for name in unneeded:
        _delete_output(step, f"{root}{name}/")
    if unneeded:
        step.resources.log.info(f"retention: deleted the outputs of {len(unneeded):,} batch jobs")


def _delete_output(step: StepContext, folder: str) -> None:
    """Delete a job's output.

    The output is marked as damaged first, so that no run adopts an output that is partly deleted.
    """
    store, marker = step.storage.store, folder + DAMAGED
    uris = [info.uri for info in store.list(folder)]
    if uris:
        store.put(marker, b"no kept edition needs it: it is being deleted\n")
        _delete_objects(step, [uri for uri in uris if uri != marker])
        store.delete(marker)
    delete_empty_folders(store.local_path(folder))


def _delete_undeclared(step: StepContext) -> None:
    """Delete the files that were made for blocks that the declaration no longer has."""
    pipeline, keys, store = step.pipeline, step.pipeline.keys, step.storage.store
    undeclared = [*_list_undeclared_prefixes(pipeline), *_list_prefixes_of_removed_lists(step)]
    prefixes = [step.files.uri(prefix) for prefix in undeclared]
    uris = [info.uri for prefix in prefixes for info in store.list(prefix)]
    if not uris:
        return
    _delete_objects(step, uris)
    shared_folders = [
        step.files.uri(key) for key in (ListKeys(pipeline.name).all_arm_users, keys.lists)
    ]
    for folder in [prefix.rpartition("/")[0] for prefix in prefixes] + shared_folders:
        delete_empty_folders(store.local_path(folder))
    step.resources.log.info(f"retention: deleted {len(uris):,} files of settings that were removed")


def _list_undeclared_prefixes(pipeline: Pipeline) -> Iterator[str]:
    """Yield the key prefixes of files that were made for blocks that are no longer declared."""
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
        segments = ListKeys(f"{pipeline.name}/{SEGMENTS}")
        yield segments.table
        yield segments.history
        yield segments.records
        yield keys.job_output("batch_segments")
        yield keys.record("segment_solution_version")
    if pipeline.similar_items is None:
        yield keys.job_input("batch_similar_items")
    if pipeline.similar_items_recipe is None:
        yield keys.job_output("batch_similar_items")
        yield keys.record("similar_items_solution_version")
    user_lists = pipeline.user_lists
    divided = [published for published in user_lists if published.divides_users]
    inputs_in_use = {published.lines_key for published in divided}
    # Lists that share a job share the file of its users, which is in the folder of the pipeline.
    list_keys = (ListKeys(pipeline.name), *(published.keys for published in user_lists))
    for key in dict.fromkeys(keys_of_list.model_users for keys_of_list in list_keys):
        if key not in inputs_in_use:
            yield key
    if all(published.has_own_users for published in user_lists):
        yield keys.job_input("batch_inference")
        yield keys.record("batch_users")
    for published in user_lists:
        if published.name and not published.has_own_users:
            yield published.keys.users_of_list
            yield published.keys.list_record("batch_users")


def _list_prefixes_of_removed_lists(step: StepContext) -> Iterator[str]:
    """Yield the key prefixes of files that were made for lists that are no longer declared.

    The published editions stay, because readers may still use them. The editions of a removed
    pipeline stay for the same reason.
    """
    for name in list_removed_lists(step):
        yield f"{step.files.keys.lists}{name}/transformed/"


def _delete_objects(step: StepContext, uris: Iterable[str]) -> None:
    for uri in uris:
        step.storage.store.delete(uri)
