"""Tests that any sequence of requests gets the same answers as from a plain account.

The sequences create, delete, describe, list and tag groups, schemas, datasets, solutions and
filters.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.personalize import RECIPE, SEEN, Local
from batchrec_dagster_tests.guard.servers.personalize_data import write_interactions_schema

pytestmark = pytest.mark.slow

ARN_PREFIX = "arn:aws:personalize:us-east-1:000000000000:"
NAMES = st.sampled_from("aab")
KINDS = st.sampled_from(["DatasetGroup", "Schema", "Dataset", "Solution", "Filter"])
EXISTS, MISSING = "ResourceAlreadyExistsException", "ResourceNotFoundException"
IN_USE, INVALID = "ResourceInUseException", "InvalidInputException"


def build_arn(kind: str, name: str) -> str:
    if kind == "Dataset":
        return f"{ARN_PREFIX}dataset/{name}/INTERACTIONS"
    return f"{ARN_PREFIX}{'dataset-group' if kind == 'DatasetGroup' else kind.lower()}/{name}"


def name_arn_member(kind: str) -> str:
    return f"{kind[0].lower()}{kind[1:]}Arn"


@dataclass
class Known:
    """A resource in the account."""

    kind: str
    group: str = ""
    schema: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class Sequences(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.local = Local(self.root)
        self.known: dict[str, Known] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def ask(self, operation: str, params: dict[str, Any], refusal: str | None) -> dict[str, Any]:
        reply = self.local.send(operation, params)
        assert reply.content.get("__type") == refusal, (operation, params, reply.content)
        return reply.content

    def create(self, kind: str, name: str, params: dict[str, Any], refusal: str | None) -> None:
        arn = build_arn(kind, name)
        refusal = refusal or (EXISTS if arn in self.known else None)
        answer = self.ask(f"Create{kind}", {"name": name, **params}, refusal)
        if refusal is None:
            assert answer == {name_arn_member(kind): arn}
            group = params.get("datasetGroupArn", "")
            self.known[arn] = Known(kind, group, params.get("schemaArn", ""))

    def list_known(self, kind: str, group: str = "") -> list[str]:
        return [
            arn
            for arn, known in self.known.items()
            if known.kind == kind and group in ("", known.group)
        ]

    @initialize()
    def begin(self) -> None:
        self.create_group("a")
        self.create_schema("a")
        self.create_dataset("a", "a")

    @rule(name=NAMES)
    def create_group(self, name: str) -> None:
        self.create("DatasetGroup", name, {}, None)

    @rule(name=NAMES)
    def create_schema(self, name: str) -> None:
        self.create("Schema", name, {"schema": write_interactions_schema()}, None)

    @rule(group=NAMES, schema=NAMES)
    def create_dataset(self, group: str, schema: str) -> None:
        parents = {
            "datasetGroupArn": build_arn("DatasetGroup", group),
            "schemaArn": build_arn("Schema", schema),
        }
        refusal = None if self.known.keys() >= set(parents.values()) else MISSING
        self.create("Dataset", group, {**parents, "datasetType": "Interactions"}, refusal)

    @rule(group=NAMES, name=NAMES)
    def create_solution(self, group: str, name: str) -> None:
        parent = build_arn("DatasetGroup", group)
        params = {"datasetGroupArn": parent, "recipeArn": f"{RECIPE}aws-sims"}
        self.create("Solution", name, params, None if parent in self.known else MISSING)

    @rule(group=NAMES, name=NAMES)
    def create_filter(self, group: str, name: str) -> None:
        parent = build_arn("DatasetGroup", group)
        refusal = None if parent in self.known else MISSING
        if refusal is None and not self.list_known("Dataset", parent):
            refusal = INVALID
        params = {"datasetGroupArn": parent, "filterExpression": SEEN}
        self.create("Filter", name, params, refusal)

    @rule(kind=KINDS, name=NAMES)
    def delete(self, kind: str, name: str) -> None:
        arn = build_arn(kind, name)
        refusal = None if arn in self.known else MISSING
        if refusal is None and self._is_needed(arn):
            refusal = IN_USE
        self.ask(f"Delete{kind}", {name_arn_member(kind): arn}, refusal)
        if refusal is None:
            del self.known[arn]
            for belonging in self.list_known("Filter", arn):
                del self.known[belonging]

    def _is_needed(self, arn: str) -> bool:
        known = self.known[arn]
        if known.kind == "DatasetGroup":
            return bool(self.list_known("Dataset", arn) or self.list_known("Solution", arn))
        if known.kind == "Dataset":
            return bool(self.list_known("Filter", known.group))
        return known.kind == "Schema" and any(other.schema == arn for other in self.known.values())

    @rule(kind=KINDS, name=NAMES)
    def describe(self, kind: str, name: str) -> None:
        arn = build_arn(kind, name)
        known = self.known.get(arn)
        answer = self.ask(
            f"Describe{kind}", {name_arn_member(kind): arn}, None if known else MISSING
        )
        if known:
            (description,) = answer.values()
            assert description[name_arn_member(kind)] == arn
            assert description.get("datasetGroupArn", "") in (known.group, arn)

    @rule(kind=KINDS, size=st.integers(1, 2))
    def list_in_pages(self, kind: str, size: int) -> None:
        arns: list[str] = []
        params: dict[str, Any] = {"maxResults": size}
        while True:
            answer = self.ask(f"List{kind}s", params, None)
            (page,) = (value for value in answer.values() if isinstance(value, list))
            arns += [entry[name_arn_member(kind)] for entry in page]
            if "nextToken" not in answer:
                break
            assert len(page) == size
            params["nextToken"] = answer["nextToken"]
        assert arns == self.list_known(kind)

    @rule(name=NAMES, value=NAMES)
    def tag(self, name: str, value: str) -> None:
        arn = build_arn("DatasetGroup", name)
        refusal = None if arn in self.known else MISSING
        tags = [{"tagKey": "k", "tagValue": value}]
        self.ask("TagResource", {"resourceArn": arn, "tags": tags}, refusal)
        if refusal is None:
            self.known[arn].tags["k"] = value
            answer = self.ask("ListTagsForResource", {"resourceArn": arn}, None)
            assert answer == {"tags": tags}

    @rule()
    def open_again(self) -> None:
        self.local = Local(self.root)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=repeats(30, 8),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
