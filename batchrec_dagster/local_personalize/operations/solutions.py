"""Solutions: a recipe with its configuration, from which versions are trained."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.personalize.schemas import ITEMS

from ..catalog.catalog import CatalogTransaction
from ..catalog.kinds import CatalogKind, JobResult, NewResource
from ..catalog.requests import ApiRequest
from ..catalog.resource import BUSY, Resource
from ..errors import InUseError, InvalidInputError
from ..jobs.job import Job, logger
from ..jobs.transitions import AFTER_UPDATE, start_update
from ..recipes import get_recipe
from .automatic_training import make_schedule_state, read_schedule
from .datasets import check_no_data_deletion, check_no_running_jobs, find_dataset, read_schema
from .resources import describe_resource
from .solution_checks import check_objective, check_solution
from .solution_versions import SOLUTION_VERSION

# Members of a solutionConfig that are stored and described, but have no effect locally.
_WITHOUT_EFFECT = ("optimizationObjective", "trainingDataConfig", "autoMLConfig")


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    if params.get("performAutoML"):
        raise InvalidInputError("AutoML is not supported locally: give a recipeArn.")
    if "recipeArn" not in params:
        raise InvalidInputError("recipeArn is required when performAutoML is false.")
    recipe = get_recipe(params["recipeArn"])
    group = request.get_active("DatasetGroup", params["datasetGroupArn"])
    check_solution(recipe, params)
    items = find_dataset(request.transaction, group.arn, ITEMS)
    schema = read_schema(request.transaction, items) if items else None
    check_objective(recipe, params.get("solutionConfig", {}), schema)
    body = {
        "performHPO": params.get("performHPO", False),
        "performAutoML": False,
        "performAutoTraining": params.get("performAutoTraining", True),
        "recipeArn": recipe.arn,
    }
    state = make_schedule_state() if body["performAutoTraining"] else {}
    return NewResource(body, state)


def _perform(job: Job) -> JobResult:
    """Warn of what costs on AWS, and of what has no effect here. A solution needs no other work."""
    body = job.resource.body
    if body["performAutoTraining"]:
        logger.warning(
            "%s: performAutoTraining is true. It is trained soon and then every 7 days, or by its"
            " schedulingExpression; on AWS this costs.",
            job.resource.arn,
        )
    config = body.get("solutionConfig", {})
    ignored = [name for name in _WITHOUT_EFFECT if config.get(name)]
    if ignored:
        logger.warning("%s: no effect locally: %s", job.resource.arn, ", ".join(ignored))
    return JobResult()


def _check_delete(request: ApiRequest, solution: Resource) -> None:
    check_no_data_deletion(request.transaction, solution.body["datasetGroupArn"])
    for version in request.transaction.list_resources("SolutionVersion", parent=solution.arn):
        if version.status in BUSY:
            raise InUseError(f"{version.arn} is {version.status}.")
        check_no_running_jobs(request.transaction, version)


def _describe_latest_version(transaction: CatalogTransaction, solution: Resource) -> dict[str, Any]:
    versions = transaction.list_resources("SolutionVersion", parent=solution.arn)
    if not versions:
        return {}
    return {"latestSolutionVersion": describe_resource(SOLUTION_VERSION, versions[-1])}


def update_solution(request: ApiRequest) -> dict[str, Any]:
    """Answer UpdateSolution: whether to train automatically, how often, and on which events.

    The solution keeps its configuration until the update is done. A training that is turned on, or
    has a new schedule, starts soon.

    Source: developer guide, "Updating a solution to change its automatic training configuration".

    Raises ResourceNotFoundError, InUseError during another update, and InvalidInputError.
    """
    params = request.params
    solution = request.get_active("Solution", params["solutionArn"])
    if solution.unfinished:
        raise InUseError(f"{solution.arn} is being updated.")
    flags = ("performAutoTraining", "performIncrementalUpdate")
    change = {name: params[name] for name in (*flags, "solutionUpdateConfig") if name in params}
    if not change:
        raise InvalidInputError("There is nothing to update.")
    new_members = {name: change[name] for name in flags if name in change}
    if "solutionUpdateConfig" in change:
        config = solution.body.get("solutionConfig", {})
        new_members["solutionConfig"] = config | change["solutionUpdateConfig"]
    new_body = solution.body | new_members
    check_solution(get_recipe(new_body["recipeArn"]), new_body)
    updated = start_update(solution, "latestSolutionUpdate", change)
    updated.state[AFTER_UPDATE] = new_members
    if read_schedule(new_body) != read_schedule(solution.body):
        updated.state.update(make_schedule_state())
    request.transaction.save(updated)
    return {"solutionArn": solution.arn}


SOLUTION = CatalogKind(
    "Solution",
    _create,
    parent_member="datasetGroupArn",
    perform=_perform,
    total_quota="solutions_per_group",
    check_delete=_check_delete,
    owned_kind="SolutionVersion",
    describe_extra=_describe_latest_version,
)
