"""Requests to Personalize, its answers, and the base class of misbehaviours."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import botocore.session

VERBS = ("Create", "Describe", "List")


@dataclass(frozen=True)
class Kind:
    """The names of a kind of resource in Personalize's API."""

    noun: str
    """The name in operations, such as SolutionVersion."""
    arn: str
    """The member with the resource's ARN, such as solutionVersionArn."""
    members: str
    """The member of List's answer with the resources, such as solutionVersions."""


@cache
def find_kind(operation: str) -> Kind | None:
    """Return the kind of resource of a Create, Describe or List; None for other operations."""
    verb = next((verb for verb in VERBS if operation.startswith(verb)), None)
    if verb is None:
        return None
    noun = operation.removeprefix(verb).removesuffix("s" if verb == "List" else "")
    model = botocore.session.get_session().get_service_model("personalize")
    if f"List{noun}s" not in model.operation_names:
        return None
    shape = model.operation_model(f"List{noun}s").output_shape
    answer = shape.members if shape else {}
    members = next(name for name in answer if name != "nextToken")
    return Kind(noun, f"{noun[:1].lower()}{noun[1:]}Arn", members)


@dataclass(frozen=True)
class Request:
    """A request to Personalize."""

    operation: str
    """The name of the operation, such as CreateSolution."""
    params: dict[str, Any]

    @property
    def verb(self) -> str:
        """Create, Describe or List; empty for other operations."""
        return next((verb for verb in VERBS if self.operation.startswith(verb)), "")

    @cached_property
    def kind(self) -> Kind | None:
        """The kind of resource; None for operations with another verb."""
        return find_kind(self.operation)

    @property
    def name(self) -> str:
        """The name of the resource that the request creates; empty if there is no name."""
        return str(self.params.get("jobName") or self.params.get("name") or "")


@dataclass(frozen=True)
class Answer:
    """Personalize's answer to a request."""

    status: int
    content: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.status == 200

    def created_arn(self, request: Request) -> str | None:
        """Return the ARN of the resource that the request created; None if it created nothing."""
        if request.verb != "Create" or not self.succeeded or request.kind is None:
            return None
        return str(self.content[request.kind.arn])

    def summaries(self, request: Request) -> list[dict[str, Any]]:
        """Return the resources in the answer of a List or Describe; none for other requests.

        The caller may change these dictionaries, and so the answer.
        """
        if not self.succeeded or request.kind is None:
            return []
        if request.verb == "List":
            return list(self.content[request.kind.members])
        if request.verb == "Describe":
            return [next(iter(self.content.values()))]
        return []


def make_error(code: str, message: str) -> Answer:
    """Return an error as Personalize sends it."""
    return Answer(400, {"__type": code, "message": message})


@dataclass
class Misbehaviour:
    """A difference between AWS and a calm local Personalize.

    The methods are called for one request at a time.
    """

    count: int = field(default=0, init=False)
    """The number of times that this misbehaviour took effect."""

    def refuse(self, request: Request) -> Answer | None:
        """Return an error in place of carrying the request out; None to carry the request out."""
        return None

    def change(self, request: Request, answer: Answer) -> Answer | None:
        """Return the answer that the client gets in place of this one; None cuts the connection."""
        return answer
