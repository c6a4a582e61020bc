"""A request to Personalize, its answer, and what may go wrong between the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import botocore.session

VERBS = ("Create", "Describe", "List")


@dataclass(frozen=True)
class Kind:
    """How the API spells a kind of resource."""

    noun: str
    """As in its operations, such as SolutionVersion."""
    arn: str
    """The member with its ARN, such as solutionVersionArn."""
    members: str
    """The member of List's answer, such as solutionVersions."""


@cache
def find_kind(operation: str) -> Kind | None:
    """The kind of resource that Create, Describe or List is of; None for other operations."""
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
    """Its name, such as CreateSolution."""
    params: dict[str, Any]

    @property
    def verb(self) -> str:
        """Create, Describe or List; empty for other operations."""
        return next((verb for verb in VERBS if self.operation.startswith(verb)), "")

    @cached_property
    def kind(self) -> Kind | None:
        """The kind of resource; None for operations of another verb."""
        return find_kind(self.operation)

    @property
    def name(self) -> str:
        """The name of the resource that it creates; empty if it has none."""
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
        """The ARN of what the request created; None if it created nothing."""
        if request.verb != "Create" or not self.succeeded or request.kind is None:
            return None
        return str(self.content[request.kind.arn])

    def summaries(self, request: Request) -> list[dict[str, Any]]:
        """The resources that it shows: those of a list, the one described, or none.

        They can be changed.
        """
        if not self.succeeded or request.kind is None:
            return []
        if request.verb == "List":
            return list(self.content[request.kind.members])
        if request.verb == "Describe":
            return [next(iter(self.content.values()))]
        return []


def make_error(code: str, message: str) -> Answer:
    """An error as Personalize sends it."""
    return Answer(400, {"__type": code, "message": message})


@dataclass
class Misbehaviour:
    """One way in which AWS differs from a calm local Personalize.

    Its methods are called for one request at a time.
    """

    count: int = field(default=0, init=False)
    """How often it did so."""

    def refuse(self, request: Request) -> Answer | None:
        """The error in place of carrying the request out; None to carry it out."""
        return None

    def change(self, request: Request, answer: Answer) -> Answer | None:
        """What the client gets in place of the answer; None cuts the connection."""
        return answer
