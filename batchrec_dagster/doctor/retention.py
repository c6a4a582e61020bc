"""How much a pipeline's earlier editions take, next to what its retention says."""

from __future__ import annotations

from pathlib import Path

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.findings import Finding, ok, unknown
from batchrec_dagster.steps.work import Work, list_removed_lists
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.paths import PipelineFiles

MB = 1_000_000


def check_retention(pipeline: Pipeline, deployment: Deployment) -> Finding:
    """The sizes of what is kept for a pipeline.

    The models of the embedded Personalize are of all pipelines that share its home.
    """
    check, settings = "retention", pipeline.retention
    files = PipelineFiles(deployment.storage_resource, pipeline.storage_keys)
    try:
        sizes = {
            **{
                _name_older_editions(list_pipeline): _measure_objects(
                    files, PipelineFiles(files.storage, list_pipeline.storage_keys).table.history
                )
                for list_pipeline in pipeline.published_pipelines
            },
            "batch outputs": sum(
                _measure_objects(files, files.uri(key))
                for key in (
                    pipeline.storage_keys.all_batch_inference,
                    pipeline.storage_keys.all_batch_segments,
                    pipeline.storage_keys.all_batch_similar_items,
                )
            ),
            "raw copies": _measure_objects(files, files.uri(pipeline.storage_keys.all_raw)),
            **{
                f"removed list {name}": _measure_objects(
                    files, files.uri(f"{pipeline.storage_keys.of_list(name).list_folder}/")
                )
                for name in list_removed_lists(Work(pipeline, files.storage))
            },
        }
    except StorageError as error:
        message, _, fix = str(error).partition("; ")
        return unknown(check, f"{pipeline.name}: {message}", fix or "fix what the message names")
    parts = [f"{what} {_format_size(size)}" for what, size in sizes.items()]
    if deployment.embedded:
        models = _measure_folder(deployment.home / "personalize" / "models")
        parts.append(f"models ({settings.models} a solution) {_format_size(models)}")
    return ok(check, f"{pipeline.name}: {', '.join(parts)}")


def _name_older_editions(list_pipeline: Pipeline) -> str:
    of_list = "" if list_pipeline.list_name is None else f" of {list_pipeline.list_name}"
    return f"older editions{of_list} ({list_pipeline.retention.editions})"


def _measure_objects(files: PipelineFiles, prefix: str) -> int:
    return sum(info.size for info in files.storage.store.list(prefix))


def _measure_folder(folder: Path) -> int:
    """The bytes of the files in the folder; 0 if there is none."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            # It is a temporary file of a run under way.
            continue
    return size


def _format_size(size: int) -> str:
    return f"{size / MB:,.1f} MB"
