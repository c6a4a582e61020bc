"""`NAME_teardown`: the job that lists, and then deletes, what a pipeline made."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment import resource_key
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.personalize.teardown import delete, plan_teardown
from batchrec_dagster.pipeline.automation.runs import MAX_RUNTIME_TAGS, describe_runs_under_way
from batchrec_dagster.pipeline.declare_asset import preview_metadata
from batchrec_dagster.pipeline.run_step import expected_errors_as_failures
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.durable import delete_empty_folders
from batchrec_dagster.storage.object_store import ObjectInfo
from batchrec_dagster.storage.paths import SIMILAR_ITEMS, PipelineFiles, is_of_list
from batchrec_dagster.storage.resource import StorageResource

# The assets that work in Personalize, in order.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "recommendations",
    "user_segments",
    "similar_items_solution_version",
    SIMILAR_ITEMS,
)


class TeardownConfig(dg.Config):
    """The configuration of one run, from the Launchpad or the command line."""

    delete: bool = Field(
        default=False, description="Delete. Without it the run only lists what it would delete."
    )
    storage: bool = Field(
        default=False,
        description="Also delete the files in the storage: copied ratings, tables, report.",
    )


def teardown_job(pipeline: Pipeline, assets: Collection[dg.AssetKey]) -> dg.JobDefinition:
    """The job. It deletes nothing while a run writes one of these assets."""

    # Ops and jobs share one namespace, so the op is named like an asset.
    @dg.op(
        name=f"{pipeline.name}__teardown",
        out=dg.Out(dg.Nothing),
        required_resource_keys={resource_key("storage"), resource_key("personalize")},
        description=f"Deletes the filters, solutions, datasets, schemas and dataset groups of"
        f" {pipeline.name} in Amazon Personalize and, if requested, its files.",
    )
    def teardown(context: dg.OpExecutionContext, config: TeardownConfig) -> None:
        storage: StorageResource = context.resources.batchrec_storage
        personalize: PersonalizeResource = context.resources.batchrec_personalize
        root = storage.uri(f"{pipeline.name}/")
        running = describe_runs_under_way(
            pipeline, assets, context.instance, PipelineFiles(storage, pipeline.storage_keys)
        )
        if config.delete and running:
            raise _build_busy_failure(running)
        with expected_errors_as_failures():
            ensure = personalize.ensure(context.log, pipeline.tags)
            work = PersonalizeWork(pipeline, storage, ensure, personalize.read_prices())
            with _hold_leases(work, context.run.run_id, config):
                plan = plan_teardown(ensure, pipeline.name)
                files = _list_files(storage, pipeline) if config.storage else []
                sizes = [file.size for file in files]
                lines = plan.describe(sizes, root, running) or ["there is nothing to delete"]
                lines += describe_sinks(pipeline)
                heading = "deleting:" if config.delete else "this would be deleted:"
                context.log.info("\n".join([heading, *lines]))
                if config.delete:
                    delete(ensure, plan)
                    for file in files:
                        storage.store.delete(file.uri)
            # The files of the leases are deleted when the leases end.
            if config.delete and config.storage:
                delete_empty_folders(storage.store.local_path(root))
        if not config.delete:
            with_files = " --storage" if config.storage else ""
            context.log.info(
                f"nothing was deleted. To delete: `batchrec teardown {pipeline.name}{with_files}`"
                f" (in Dagster's Launchpad: delete: true of {pipeline.name}__teardown)"
            )
        context.add_output_metadata(
            {
                "outcome": "deleted" if config.delete else "nothing was deleted: this is a plan",
                "plan": preview_metadata("\n".join(f"- {escape(line)}" for line in lines)),
                "resources": len(plan.pieces),
                "files": len(files),
            }
        )

    @dg.job(
        name=f"{pipeline.name}_teardown",
        description=f"Shows what {pipeline.name} made in Amazon Personalize, and deletes it when"
        " the run's config says delete: true. Nothing of other pipelines is touched.",
        executor_def=dg.in_process_executor,
        tags=MAX_RUNTIME_TAGS,
    )
    def job() -> None:
        teardown()

    return job


def _build_busy_failure(running: list[str]) -> dg.Failure:
    """The failure of a teardown while other runs of the pipeline are under way."""
    return dg.Failure(
        f"nothing was deleted: {'; '.join(running)}, and would write again what is deleted."
        " Wait until it ends or cancel it, then start the teardown again. If its process is"
        " dead, use Terminate, Force termination immediately, in the UI",
        allow_retries=False,
    )


def describe_sinks(pipeline: Pipeline) -> list[str]:
    """A line for each sink about what it wrote, which a teardown does not delete."""
    descriptions = [
        sink.describe(Path())
        for list_pipeline in pipeline.published_pipelines
        for sink in list_pipeline.sinks.declared.values()
    ]
    removals = [description.removal for description in descriptions if description.removal]
    return [f"left alone, for those who use it: {removal}" for removal in removals]


def hold_all_leases(leases: ExitStack, work: PersonalizeWork, owner: str) -> None:
    """Hold the leases of the steps of all lists until the end, so that runs wait."""
    for step in STEPS:
        # Each list has a step of its own, or all share one.
        pipelines = work.pipeline.published_pipelines if is_of_list(step) else [work.pipeline]
        for pipeline in pipelines:
            leases.enter_context(work.for_pipeline(pipeline).step_lease(step, owner))


@contextmanager
def _hold_leases(work: PersonalizeWork, run: str, config: TeardownConfig) -> Iterator[None]:
    """The leases of all steps, if the run deletes.

    Other runs wait for them, so they make nothing that is being deleted.
    """
    with ExitStack() as stack:
        if config.delete:
            hold_all_leases(stack, work, run)
        yield


def _list_files(storage: StorageResource, pipeline: Pipeline) -> list[ObjectInfo]:
    """All files of the pipeline but the leases, which this run itself holds."""
    leases = tuple(
        storage.uri(list_pipeline.storage_keys.lease(step))
        for list_pipeline in pipeline.published_pipelines
        for step in STEPS
    )
    files = storage.store.list(storage.uri(f"{pipeline.name}/"))
    return [file for file in files if not file.uri.startswith(leases)]
