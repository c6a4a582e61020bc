"""The catalogue of an exported home, as JSON that anybody may have written: checks every row.

The catalogue is also the job queue and the schedule of automatic trainings. So that nothing runs
because a file was imported, only finished resources are taken, and automatic training is turned
off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..catalog.requests import ACCOUNT_ID
from ..catalog.resource import BUSY, Resource, Status
from ..errors import InvalidInputError
from ..jobs.s3_locations import check_location
from ..operations.automatic_training import NEW_SCHEDULE, NEXT_TRAINING
from ..operations.expired_versions import MODEL_EXPIRED, has_model
from ..operations.registry import KINDS
from ..operations.tags import MAX_TAGS
from ..recipes import RECIPES
from .validation import check_request, find_input_shape

FORMAT = 1
"""The number of this form of the JSON."""

FINISHED = frozenset(Status) - frozenset(BUSY)

_ARN = re.compile(
    r"arn:aws[a-z-]*:personalize:([a-z0-9-]+):([0-9]+):([\w-]+)(?:/[\w-]+){1,2}", re.A
)
# How ARNs name each kind. The ARN of a solution version starts with that of its solution.
_SLUGS = {kind.name: kind.slug for kind in KINDS.values()} | {"SolutionVersion": "solution"}
# What the paths in the catalogue may be, so that they cannot lead out of the home.
_PATHS = {
    "model": re.compile(r"models/(?!\.)[^/\\\x00]+"),
    "data": re.compile(r"datasets/(?!\.)[^/\\\x00]+"),
}
_MAX_QUOTED = 300
"""How many characters of a value a message quotes."""

_LATEST_TIME = 253_402_300_799.0
"""The end of the year 9999, which is the last that datetime has, in epoch seconds."""


class ArchivedCatalogError(ValueError):
    """The catalogue cannot be imported. The message says which resource is wrong, and how."""


@dataclass(frozen=True)
class ArchivedCatalog:
    """The resources of a home and their tags."""

    resources: list[Resource]
    tags: Mapping[str, Mapping[str, str]]
    """The tags of each resource, by its ARN."""

    def to_json(self) -> bytes:
        """Return the content of the file `catalog.json`."""
        rows = [vars(resource) for resource in self.resources]
        return json.dumps({"format": FORMAT, "resources": rows, "tags": self.tags}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ArchivedCatalog:
        """Return the catalogue of a file, checked. Raises ArchivedCatalogError."""
        try:
            content = json.loads(text)
            version, rows, tags = content["format"], list(content["resources"]), content["tags"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArchivedCatalogError("its catalog.json is not the catalogue of a home") from error
        if version != FORMAT:
            raise ArchivedCatalogError(f"it has format {version!r}; this version reads {FORMAT}")
        names = {field.name for field in fields(Resource)}
        for row in rows:
            if not isinstance(row, dict) or row.keys() != names or row["kind"] not in _SLUGS:
                raise ArchivedCatalogError("its catalog.json is not the catalogue of a home")
        catalog = cls([Resource(**row) for row in rows], tags)
        catalog.check()
        return catalog

    def check(self) -> None:
        """Raise ArchivedCatalogError unless every row is one that this service writes."""
        arns: set[str] = set()
        paths: set[str] = set()
        for resource in self.resources:
            try:
                _check_resource(resource)
                own_paths = resource.files
            except LookupError as error:
                raise _make_invalid_error(resource, f"it lacks {error}") from error
            except (ValueError, TypeError, AttributeError, InvalidInputError) as error:
                raise _make_invalid_error(resource, str(error)) from error
            has_repeated_path = len(set(own_paths)) < len(own_paths)
            if resource.arn in arns or has_repeated_path or paths.intersection(own_paths):
                raise ArchivedCatalogError(f"{resource.arn} or a file of it is there twice")
            arns.add(resource.arn)
            paths.update(own_paths)
        for resource in self.resources:
            _check_finished(resource)
        try:
            for arn, tags in self.tags.items():
                _check_tags(arn, tags)
        except (AttributeError, InvalidInputError) as error:
            raise ArchivedCatalogError(f"its tags are not valid: {error}") from error

    def remove_schedules(self) -> tuple[ArchivedCatalog, list[str]]:
        """Return the catalogue without automatic trainings, and the solutions that had one.

        The solutions are given by their ARNs.
        """
        resources, stopped_arns = [], []
        for resource in self.resources:
            state = {
                name: value
                for name, value in resource.state.items()
                if name not in (NEXT_TRAINING, NEW_SCHEDULE)
            }
            body = resource.body
            if resource.kind == "Solution" and body["performAutoTraining"]:
                stopped_arns.append(resource.arn)
                body = body | {"performAutoTraining": False}
            resources.append(replace(resource, body=body, state=state))
        return replace(self, resources=resources), stopped_arns


def _check_finished(resource: Resource) -> None:
    """Raise ArchivedCatalogError if a job is queued or runs for the resource."""
    has_jobs = KINDS[resource.kind].perform is not None
    status = resource.status
    is_finished = status in FINISHED if has_jobs else status is None
    if is_finished and not resource.unfinished and resource.owner is None:
        return
    condition = status if isinstance(status, str) else "without a status"
    if is_finished:
        condition = f"{condition}, with an update that is not finished"
    raise ArchivedCatalogError(
        f"{resource.arn} is {condition[:_MAX_QUOTED]}: only finished resources are imported, so"
        " that no job starts by itself. Export the home again when its jobs have ended"
    )


def _check_resource(resource: Resource) -> None:
    """Raise an error that says what is wrong with the values, if anything is.

    The error is a ValueError, TypeError, LookupError, AttributeError or InvalidInputError.
    """
    kind, body, state = KINDS[resource.kind], resource.body, resource.state
    arn = _ARN.fullmatch(resource.arn)
    if arn is None or arn[3] != _SLUGS[kind.name]:
        raise ValueError(f"its ARN is not one of a {kind.name}")
    region, account = arn[1], arn[2]
    if resource.region != (region if account == ACCOUNT_ID else f"{region} {account}"):
        raise ValueError(f"its ARN is of another region than {resource.region!r}")
    if resource.parent is not None and not _ARN.fullmatch(resource.parent):
        raise ValueError(f"its parent {resource.parent[:_MAX_QUOTED]!r} has no ARN")
    if type(resource.unfinished) is not bool or not isinstance(body, dict):
        raise TypeError("a value has the wrong type")
    times = resource.created, resource.updated
    if not all(type(time) in (int, float) and 0 <= time <= _LATEST_TIME for time in times):
        raise ValueError("its times are not times")
    # The body has the request's members, and others that Describe shows.
    check_request(body, find_input_shape(f"Create{kind.name}"))
    for location in _list_locations(body):
        check_location(location)
    if kind.name in ("Solution", "SolutionVersion") and body["recipeArn"] not in RECIPES:
        raise ValueError(f"this version has no recipe {body['recipeArn']!r}")
    _check_state(resource)
    # Fails for lone surrogates, which no encoding can store.
    json.dumps([body, state], ensure_ascii=False).encode()


def _list_locations(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the S3 paths that a job's request names."""
    if "dataSource" in body:
        yield body["dataSource"]["dataLocation"]
    if "jobInput" in body:
        yield body["jobInput"]["s3DataSource"]["path"]
        yield body["jobOutput"]["s3DataDestination"]["path"]


def _check_state(resource: Resource) -> None:
    """Raise an error, as `_check_resource` does, if the state names wrong paths or metrics."""
    state, is_active = resource.state, resource.status == Status.ACTIVE
    paths = [(_PATHS["data"], file["path"]) for file in state.get("files", [])]
    if "model" in state:
        paths.append((_PATHS["model"], state["model"]))
    if state.get("previous") is not None:
        paths.append((_PATHS["model"], state["previous"]))
    for pattern, path in paths:
        if not pattern.fullmatch(path):
            raise ValueError(f"{path[:_MAX_QUOTED]!r} is not the path of its data or model")
    if resource.kind == "Dataset" and not isinstance(state["files"], list):
        raise TypeError("its files are not a list")
    if resource.kind == "SolutionVersion" and is_active:
        values = [*state["metrics"].values(), *state.get("evidence", {}).values()]
        has_lost_model = not has_model(resource) and not state.get(MODEL_EXPIRED)
        if has_lost_model or not all(map(_is_number, values)):
            raise ValueError("it has no model, or metrics that are not numbers")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isinf(value)


def _check_tags(arn: str, tags: Mapping[str, str]) -> None:
    """Raise AttributeError or InvalidInputError if a resource cannot have these tags."""
    request = {
        "resourceArn": arn,
        "tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()],
    }
    check_request(request, find_input_shape("TagResource"))
    if len(tags) > MAX_TAGS:
        raise InvalidInputError(f"{arn} has more than {MAX_TAGS}")


def _make_invalid_error(resource: Resource, problem: str) -> ArchivedCatalogError:
    return ArchivedCatalogError(
        f"the resource {str(resource.arn)[:_MAX_QUOTED]!r} is not valid: {problem}"
    )
