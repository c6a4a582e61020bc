"""`NAME_teardown`: the job that deletes what a pipeline made, and shows first what that is."""

from contextlib import ExitStack
from pathlib import Path

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.teardown import Plan, delete, find
from batchrec_dagster.pipeline.automation import runs
from batchrec_dagster.pipeline.exclusive_step import leased
from batchrec_dagster.pipeline.resources import PersonalizeResource
from batchrec_dagster.storage.object_store import ObjectInfo, StorageError
from batchrec_dagster.storage.resource import StorageResource

# The assets that work in Personalize, in the order in which they do.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "recommendations",
    "user_segments",
)


class TeardownConfig(dg.Config):
    """Told to one run, from the Launchpad or the command line."""

    delete: bool = Field(
        default=False, description="Delete. Without it the run only tells what it would delete."
    )
    storage: bool = Field(
        default=False,
        description="Also what lies in the storage: the ratings' copy, the tables, the report.",
    )


def teardown_job(pipeline: Pipeline) -> dg.JobDefinition:
    """The job."""

    # Ops and jobs share their names, so that the op has that of an asset.
    @dg.op(
        name=f"{pipeline.name}__teardown",
        out=dg.Out(dg.Nothing),
        description=f"Deletes the filters, solutions, datasets, schemas and dataset groups of"
        f" {pipeline.name} in Amazon Personalize and, when asked to, its files.",
    )
    def teardown(
        context: dg.OpExecutionContext,
        config: TeardownConfig,
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> None:
        ensure = personalize.ensure(context.log, pipeline.tags)
        root = storage.uri(f"{pipeline.name}/")
        at_work = [
            f"run {run.run_id} of {run.job_name} is under way"
            for run in runs.at_work(pipeline, context.instance)
        ]
        if at_work and config.delete:
            raise dg.Failure(
                f"nothing was deleted: {'; '.join(at_work)}, and would write again what is deleted."
                " Wait until it has ended or cancel it, and start the teardown again. One whose"
                " process is dead ends by Terminate, Force termination immediately, in the UI",
                allow_retries=False,
            )
        try:
            with ExitStack() as alone:
                # A run that makes what is being deleted waits, and the other way round.
                for step in STEPS if config.delete else ():
                    alone.enter_context(leased(pipeline, step, context, personalize))
                plan = find(ensure, pipeline.name)
                files = _files(storage, pipeline) if config.storage else []
                told = _told(plan, files, root, at_work, pipeline)
                doing = "deleting" if config.delete else "this would be deleted"
                context.log.info(f"{doing}:\n{told}")
                if config.delete:
                    delete(ensure, plan)
                    for file in files:
                        storage.store.delete(file.uri)
            path = storage.store.local_path(root)
            if path is not None and config.delete and config.storage:
                _delete_empty_folders(path)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        if not config.delete:
            context.log.info(
                f"nothing was deleted. To delete, run with ops: {{{pipeline.name}__teardown:"
                f" {{config: {{delete: true, storage: {str(config.storage).lower()}}}}}}}"
            )
        context.add_output_metadata(
            {
                "outcome": "deleted" if config.delete else "nothing was deleted: this is a plan",
                "plan": dg.MetadataValue.md(told),
                "resources": len(plan.pieces),
                "files": len(files),
            }
        )

    @dg.job(
        name=f"{pipeline.name}_teardown",
        description=f"Shows what {pipeline.name} made in Amazon Personalize, and deletes it when"
        " the run's config says delete: true. Nothing of other pipelines is touched.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        teardown()

    return job


def _told(
    plan: Plan, files: list[ObjectInfo], root: str, at_work: list[str], pipeline: Pipeline
) -> str:
    """The plan as a Markdown list, in the order of deletion."""
    size = sum(file.size for file in files) / 1e6
    lines = [
        *(f"end {work}" for work in plan.work),
        *(f"delete {piece}" for piece in plan.pieces),
        *([f"delete {len(files):,} files under {root} ({size:,.1f} MB)"] if files else []),
        *(f"in the way: {what}" for what in [*at_work, *plan.in_the_way]),
        *(f"left alone: {what}" for what in plan.left),
    ]
    lines = lines or ["there is nothing to delete"]
    return "\n".join(f"- {line}" for line in [*lines, *_in_sinks(pipeline)])


def _in_sinks(pipeline: Pipeline) -> list[str]:
    """The lists in the sinks; their owners delete them."""
    described = [sink.describe(Path()) for sink in pipeline.sinks.declared.values()]
    return [f"left alone, for those who use it: {one.removal}" for one in described if one.removal]


def _files(storage: StorageResource, pipeline: Pipeline) -> list[ObjectInfo]:
    """All but this run's own leases."""
    leases = tuple(storage.uri(pipeline.places.lease(step)) for step in STEPS)
    found = storage.store.list(storage.uri(f"{pipeline.name}/"))
    return [file for file in found if not file.uri.startswith(leases)]


def _delete_empty_folders(path: Path) -> None:
    """Folders stand for the slashes of S3's keys: without files there are none."""
    for folder in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
