"""Solutions: a recipe and its configuration."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.local_personalize.api.validation import member_shape, prune
from batchrec_dagster.local_personalize.catalog.catalog import BUSY, Records, Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, JobResult, Kind
from batchrec_dagster.local_personalize.errors import InUseError, InvalidInputError
from batchrec_dagster.local_personalize.jobs.job import UPDATED, Job, logger, start_update
from batchrec_dagster.local_personalize.operations.datasets import dataset_of, schema_of
from batchrec_dagster.local_personalize.operations.resources import members
from batchrec_dagster.local_personalize.operations.solution_config import (
    check_objective,
    check_solution,
    ignored_options,
    training_schedule,
)
from batchrec_dagster.local_personalize.operations.solution_versions import (
    SOLUTION_VERSION,
    first_training,
    version_files,
)
from batchrec_dagster.local_personalize.recipes import get_recipe
from batchrec_dagster.personalize.schemas import ITEMS

_OPTIONS = ("performIncrementalUpdate", "eventType", "solutionConfig")


def _create(call: Call) -> Draft:
    params = call.params
    if params.get("performAutoML"):
        raise InvalidInputError("AutoML is not supported locally: give a recipeArn.")
    if "recipeArn" not in params:
        raise InvalidInputError("recipeArn is required when performAutoML is false.")
    recipe = get_recipe(params["recipeArn"])
    group = call.get_active("DatasetGroup", params["datasetGroupArn"])
    check_solution(recipe, params)
    items = dataset_of(call.records, group.arn, ITEMS)
    schema = schema_of(call.records, items) if items else None
    check_objective(recipe, params.get("solutionConfig", {}), schema)
    body = {
        "name": params["name"],
        "performHPO": params.get("performHPO", False),
        "performAutoML": False,
        "performAutoTraining": params.get("performAutoTraining", True),
        "recipeArn": recipe.arn,
        "datasetGroupArn": group.arn,
        **{option: params[option] for option in _OPTIONS if option in params},
    }
    state = first_training() if body["performAutoTraining"] else {}
    return Draft(f"solution/{params['name']}", group.arn, body, state)


def _perform(job: Job) -> JobResult:
    body = job.resource.body
    if body["performAutoTraining"]:
        logger.warning(
            "%s: performAutoTraining is true. It is trained soon and then every 7 days, or by its"
            " schedulingExpression; on AWS this costs.",
            job.resource.arn,
        )
    if ignored := ignored_options(body):
        logger.warning("%s: no effect locally: %s", job.resource.arn, ", ".join(ignored))
    return JobResult()


def _check_delete(call: Call, solution: Resource) -> None:
    for version in call.records.children("SolutionVersion", solution.arn):
        if version.status in BUSY:
            raise InUseError(f"{version.arn} is {version.status}.")
        for kind in ("BatchInferenceJob", "BatchSegmentJob"):
            if any(job.unfinished for job in call.records.children(kind, version.arn)):
                raise InUseError(f"A job that uses {version.arn} is not finished.")


def _files(records: Records, solution: Resource) -> list[str]:
    versions = records.children("SolutionVersion", solution.arn)
    return [path for version in versions for path in version_files(version)]


def _delete_versions(records: Records, solution: Resource) -> None:
    for version in records.children("SolutionVersion", solution.arn):
        records.remove(version.arn)


def _latest_version(records: Records, solution: Resource) -> dict[str, Any]:
    versions = records.children("SolutionVersion", solution.arn)
    if not versions:
        return {}
    shape = member_shape("DescribeSolution", "solution", "latestSolutionVersion")
    return {"latestSolutionVersion": prune(members(SOLUTION_VERSION, versions[-1]), shape)}


def update(call: Call) -> dict[str, Any]:
    """UpdateSolution: whether to train automatically, how often, and on which events.

    The solution keeps its configuration until the update is done. A training that is turned on,
    or has a new schedule, starts soon. Source: developer guide, "Updating a solution to change its
    automatic training configuration".
    """
    solution = call.get_active("Solution", call.params["solutionArn"])
    if solution.unfinished:
        raise InUseError(f"{solution.arn} is being updated.")
    members = ("performAutoTraining", "performIncrementalUpdate", "solutionUpdateConfig")
    change = {member: call.params[member] for member in members if member in call.params}
    if not change:
        raise InvalidInputError("There is nothing to update.")
    new = {name: change[name] for name in members[:2] if name in change}
    if "solutionUpdateConfig" in change:
        config = solution.body.get("solutionConfig", {})
        new["solutionConfig"] = config | change["solutionUpdateConfig"]
    body = solution.body | new
    check_solution(get_recipe(body["recipeArn"]), body)
    changed = start_update(solution, "latestSolutionUpdate", change)
    changed.state[UPDATED] = new
    if _training(body) != _training(solution.body):
        changed.state.update(first_training())
    call.records.save(changed)
    return {"solutionArn": solution.arn}


def _training(body: dict[str, Any]) -> tuple[bool, str | None]:
    return body["performAutoTraining"], training_schedule(body.get("solutionConfig", {}))


SOLUTION = Kind(
    "Solution",
    _create,
    parent="datasetGroupArn",
    perform=_perform,
    total="solutions_per_group",
    check_delete=_check_delete,
    files=_files,
    delete_children=_delete_versions,
    describe_extra=_latest_version,
)
