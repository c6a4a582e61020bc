"""Amazon Personalize's own description of its API, as botocore ships it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, ServiceModel, Shape, StructureShape

SERVICE = "personalize"


@cache
def service_model() -> ServiceModel:
    """The model that comes with botocore; one in the user's ~/.aws/models is not looked at."""
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False
    )
    return ServiceModel(loader.load_service_model(SERVICE, "service-2"), SERVICE)


@cache
def input_shape(operation: str) -> StructureShape:
    """The shape of an operation's request. Every operation of Personalize has one."""
    shape = service_model().operation_model(operation).input_shape
    if not isinstance(shape, StructureShape):
        raise TypeError(f"{operation} takes no structure")
    return shape


@cache
def member_shape(operation: str, *path: str) -> Shape:
    """The shape of a member of an operation's answer, down a path of structures."""
    members = output_members(operation)
    shape = members[path[0]]
    for name in path[1:]:
        if not isinstance(shape, StructureShape):
            raise TypeError(f"{operation} answers no structure that has {name}")
        shape = shape.members[name]
    return shape


@cache
def output_members(operation: str) -> Mapping[str, Shape]:
    """The members of an operation's answer; empty when it answers with nothing."""
    shape = service_model().operation_model(operation).output_shape
    return shape.members if isinstance(shape, StructureShape) else {}


def pruned(value: Any, shape: Shape) -> Any:
    """`value` with the members that `shape` has and no others; absent (None) members left out."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        return {
            name: pruned(value[name], member)
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [pruned(entry, shape.member) for entry in value]
    if shape.type_name == "integer":
        return int(value)  # JSON does not tell 5.0 from 5
    return value
