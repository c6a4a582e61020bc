"""Random sequences of requests, against a simple model of what Personalize would answer.

Nothing happens in the background until the machine says so: the service's pace is that of AWS, and
`work` opens the home anew at full speed, as the next process would after a crash. Set
BATCHREC_TEST_SEQUENCES to try more of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batchrec_dagster.formats.interactions import interactions_schema
from batchrec_dagster.local_personalize.errors import ServiceError
from batchrec_dagster.local_personalize.pace import Pace
from batchrec_dagster.local_personalize.quotas import Quotas
from batchrec_dagster.local_personalize.service import LocalPersonalize
from batchrec_dagster.object_store import ObjectStore
from batchrec_dagster_tests.local_personalize.support import RECIPE, SEEN

ACCOUNT = "arn:aws:personalize:us-east-1:000000000000:"
QUOTAS = Quotas(dataset_groups=2, schemas=2, solutions_per_group=2, filters_per_group=1)
NEVER, AT_ONCE = Pace(1000.0), Pace()
NAMES = st.sampled_from(["a", "a", "a", "a", "b", "c"])  # mostly one, so that much depends on it
KINDS = st.sampled_from(["DatasetGroup", "Schema", "Dataset", "Solution", "Filter"])
EXISTS, MISSING, IN_USE, LIMIT, INVALID = (
    f"{name}Exception"
    for name in (
        "ResourceAlreadyExists",
        "ResourceNotFound",
        "ResourceInUse",
        "LimitExceeded",
        "InvalidInput",
    )
)


@dataclass
class Known:
    """What the model knows of a resource."""

    kind: str
    status: str | None
    group: str | None = None
    schema: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


def _arn(kind: str, name: str) -> str:
    parts = {
        "DatasetGroup": f"dataset-group/{name}",
        "Schema": f"schema/{name}",
        "Dataset": f"dataset/{name}/INTERACTIONS",
        "Solution": f"solution/{name}",
        "Filter": f"filter/{name}",
    }
    return ACCOUNT + parts[kind]


def _member(kind: str) -> str:
    return kind[0].lower() + kind[1:] + "Arn"


class Sequences(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.known: dict[str, Known] = {}
        self.service = self._open(NEVER)

    def _open(self, pace: Pace) -> LocalPersonalize:
        return LocalPersonalize(self.home, ObjectStore(), quotas=QUOTAS, pace=pace)

    def teardown(self) -> None:
        self.service.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _ask(self, operation: str, params: dict[str, Any], expected: str | None) -> dict[str, Any]:
        """The answer; it must be a refusal of the expected code, or none."""
        try:
            answer = self.service.call(operation, params)
        except ServiceError as error:
            answer, refusal = {}, error.code
        else:
            refusal = ""
        assert refusal == (expected or ""), (operation, params)
        return answer

    def _of(self, kind: str, group: str | None = None) -> list[str]:
        """The ARNs of a kind, in order of creation."""
        return [
            arn
            for arn, known in self.known.items()
            if known.kind == kind and (group is None or known.group == group)
        ]

    def _unready(self, arn: str) -> str | None:
        """The refusal of a request that needs this resource, if there is one."""
        if arn not in self.known:
            return MISSING
        return None if self.known[arn].status in ("ACTIVE", None) else IN_USE

    def _create(self, params: dict[str, Any], made: Known, arn: str, expected: str | None) -> None:
        answer = self._ask(f"Create{made.kind}", params, expected)
        if expected is None:
            assert answer == {_member(made.kind): arn}
            self.known[arn] = made

    @initialize(furnished=st.booleans())
    def begin(self, furnished: bool) -> None:
        """Half of the sequences begin with what takes many requests to make."""
        if furnished:
            self.create_group("a")
            self.create_schema("a", event_type=True)
            self.work()
            self.create_dataset("a", "a")
            self.work()
            self.create_filter("a", "a")

    @rule(name=NAMES)
    def create_group(self, name: str) -> None:
        arn = _arn("DatasetGroup", name)
        full = len(self._of("DatasetGroup")) >= QUOTAS.dataset_groups
        expected = EXISTS if arn in self.known else LIMIT if full else None
        made = Known("DatasetGroup", "CREATE PENDING")
        self._create({"name": name}, made, arn, expected)

    @rule(name=NAMES, event_type=st.booleans())
    def create_schema(self, name: str, event_type: bool) -> None:
        arn = _arn("Schema", name)
        full = len(self._of("Schema")) >= QUOTAS.schemas
        expected = EXISTS if arn in self.known else LIMIT if full else None
        text = interactions_schema(event_type=event_type)
        made = Known("Schema", None, tags={"event_type": str(event_type)})
        self._create({"name": name, "schema": text}, made, arn, expected)

    @rule(group=NAMES, schema=NAMES)
    def create_dataset(self, group: str, schema: str) -> None:
        group_arn, schema_arn = _arn("DatasetGroup", group), _arn("Schema", schema)
        arn = _arn("Dataset", group)
        expected = self._unready(group_arn) or self._unready(schema_arn)
        expected = expected or (EXISTS if arn in self.known else None)
        params = {
            "name": "d",
            "datasetGroupArn": group_arn,
            "schemaArn": schema_arn,
            "datasetType": "Interactions",
        }
        self._create(
            params, Known("Dataset", "CREATE PENDING", group_arn, schema_arn), arn, expected
        )

    @rule(group=NAMES, name=NAMES)
    def create_solution(self, group: str, name: str) -> None:
        group_arn, arn = _arn("DatasetGroup", group), _arn("Solution", name)
        expected = self._unready(group_arn)
        if expected is None and arn in self.known:
            expected = EXISTS
        elif (
            expected is None and len(self._of("Solution", group_arn)) >= QUOTAS.solutions_per_group
        ):
            expected = LIMIT
        recipe = RECIPE + "aws-popularity-count"
        params = {"name": name, "datasetGroupArn": group_arn, "recipeArn": recipe}
        self._create(params, Known("Solution", "CREATE PENDING", group_arn), arn, expected)

    @rule(group=NAMES, name=NAMES)
    def create_filter(self, group: str, name: str) -> None:
        group_arn, arn = _arn("DatasetGroup", group), _arn("Filter", name)
        dataset = self.known.get(_arn("Dataset", group))
        schema = self.known.get(dataset.schema or "") if dataset else None
        if group_arn not in self.known:
            expected = MISSING
        elif schema is None or schema.tags["event_type"] != "True":
            expected = INVALID
        elif arn in self.known:
            expected = EXISTS
        else:
            full = len(self._of("Filter", group_arn)) >= QUOTAS.filters_per_group
            expected = LIMIT if full else ""
        params = {"name": name, "datasetGroupArn": group_arn, "filterExpression": SEEN}
        self._create(params, Known("Filter", "CREATE PENDING", group_arn), arn, expected or None)

    @rule(kind=KINDS, name=NAMES)
    def delete(self, kind: str, name: str) -> None:
        arn = _arn(kind, name)
        expected = self._unready(arn)
        if expected is None and kind == "DatasetGroup":
            expected = IN_USE if self._of("Solution", arn) or self._of("Dataset", arn) else None
        if expected is None and kind == "Schema":
            used = any(known.schema == arn for known in self.known.values())
            expected = IN_USE if used else None
        self._ask(f"Delete{kind}", {_member(kind): arn}, expected)
        if expected is None and kind == "Schema":
            del self.known[arn]
        elif expected is None:
            self.known[arn].status = "DELETE PENDING"

    @rule(kind=KINDS, name=NAMES)
    def describe(self, kind: str, name: str) -> None:
        arn = _arn(kind, name)
        answer = self._ask(
            f"Describe{kind}", {_member(kind): arn}, None if arn in self.known else MISSING
        )
        for described in answer.values():
            assert described[_member(kind)] == arn
            assert described.get("status") == self.known[arn].status
            assert described.get("datasetGroupArn") == (
                arn if kind == "DatasetGroup" else self.known[arn].group
            )

    @rule(kind=KINDS, size=st.integers(1, 3))
    def list_in_pages(self, kind: str, size: int) -> None:
        listed: list[str] = []
        params: dict[str, Any] = {"maxResults": size}
        while True:
            answer = self._ask(f"List{kind}s", params, None)
            (page,) = (value for value in answer.values() if isinstance(value, list))
            assert len(page) <= size
            listed += [entry[_member(kind)] for entry in page]
            if "nextToken" not in answer:
                break
            assert len(page) == size
            params["nextToken"] = answer["nextToken"]
        assert listed == self._of(kind)

    @rule(name=NAMES, value=NAMES)
    def tag(self, name: str, value: str) -> None:
        arn = _arn("DatasetGroup", name)
        expected = None if arn in self.known else MISSING
        tags = [{"tagKey": "k", "tagValue": value}]
        self._ask("TagResource", {"resourceArn": arn, "tags": tags}, expected)
        if expected is None:
            self.known[arn].tags = {"k": value}

    @rule()
    def crash_and_reopen(self) -> None:
        self.service.close()
        self.service = self._open(NEVER)

    @rule()
    def work(self) -> None:
        self.service.close()
        self.service = self._open(AT_ONCE)
        deleted = {arn for arn, k in self.known.items() if k.status == "DELETE PENDING"}
        waits = [arn for arn, k in self.known.items() if k.status not in ("ACTIVE", None)]
        for arn in waits:
            self._await(arn, gone=arn in deleted)
        for arn in deleted:
            for beside in self._of("Filter", arn) if self.known[arn].kind == "DatasetGroup" else []:
                self.known.pop(beside, None)
            self.known.pop(arn, None)
        for known in self.known.values():
            known.status = None if known.kind == "Schema" else "ACTIVE"
        self.service.close()
        self.service = self._open(NEVER)

    @rule(name=NAMES)
    def tear_down(self, name: str) -> None:
        """What random requests would seldom do: delete a whole group, in the right order."""
        group = _arn("DatasetGroup", name)
        self.work()
        for solution in self._of("Solution", group):
            self.delete("Solution", solution.rpartition("/")[2])
        self.delete("Dataset", name)
        self.work()
        self.delete("DatasetGroup", name)
        self.work()

    def _await(self, arn: str, *, gone: bool) -> None:
        kind = self.known[arn].kind
        group = self.known[arn].group or ""
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                answer = self.service.call(f"Describe{kind}", {_member(kind): arn})
            except ServiceError:
                # A filter goes with its group.
                owner = self.known.get(group)
                assert gone or (kind == "Filter" and owner and owner.status == "DELETE PENDING")
                return
            (described,) = answer.values()
            if described["status"] == "ACTIVE" and not gone:
                return
            time.sleep(0.001)
        raise AssertionError(f"nothing becomes of {arn}")

    @invariant()
    def tags_are_kept(self) -> None:
        for arn in self._of("DatasetGroup"):
            tags = self._ask("ListTagsForResource", {"resourceArn": arn}, None)["tags"]
            assert {tag["tagKey"]: tag["tagValue"] for tag in tags} == self.known[arn].tags


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=int(os.environ.get("BATCHREC_TEST_SEQUENCES", "25")),
    stateful_step_count=40,
    deadline=None,
)
