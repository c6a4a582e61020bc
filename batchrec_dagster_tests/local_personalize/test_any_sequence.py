"""Random sequences of requests, against a simple model of what Personalize would answer.

Nothing happens in the background until the machine says so: the service is idle, and `work` opens
the home anew with one that works, as the next process would. `crash_at_work` lets a process work
and kills it. `make test-long` tries more sequences.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.local_personalize.errors import ResourceNotFoundError, ServiceError
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    ROLE,
    SEEN,
    build_taste_rows,
    encode_csv,
    open_idle_service,
    poll_until_deadline,
)
from batchrec_dagster_tests.local_personalize.personalize_calls import (
    ACTIVE,
    DELETING,
    FAILED,
    MISSING,
    PENDING,
    STOPPED,
    TYPES,
    Model,
    ModelResource,
)

pytestmark = pytest.mark.slow

ACCOUNT = "arn:aws:personalize:us-east-1:000000000000:"
DEADLINE_SECONDS = 60.0
NAMES = st.sampled_from(["a", "a", "a", "a", "b", "c"])  # mostly one, so that much depends on it
FORMS = st.sampled_from(sorted(TYPES))
KINDS = st.sampled_from(
    [
        *("DatasetGroup", "Schema", "Dataset", "DatasetImportJob"),
        *("Solution", "SolutionVersion", "Filter", "BatchInferenceJob", "BatchSegmentJob"),
    ]
)
DELETED = st.sampled_from(["DatasetGroup", "Schema", "Dataset", "Solution", "Filter"])
NONE = 9
PICKS = st.integers(0, NONE)
PATHS = {
    "DatasetGroup": "dataset-group",
    "Schema": "schema",
    "Dataset": "dataset",
    "DatasetImportJob": "dataset-import-job",
    "Solution": "solution",
    "SolutionVersion": "solution",
    "Filter": "filter",
    "BatchInferenceJob": "batch-inference-job",
    "BatchSegmentJob": "batch-segment-job",
}
USERS = ["u1", "u2", "stranger"]


def _build_arn(kind: str, name: str) -> str:
    return f"{ACCOUNT}{PATHS[kind]}/{name}"


def _name_arn_member(kind: str) -> str:
    return kind[0].lower() + kind[1:] + "Arn"


def _build_schema(form: str) -> str:
    if TYPES[form] == "INTERACTIONS":
        return build_interactions_schema(event_type=form == "events")
    fields = [{"name": "ITEM_ID", "type": "string"}, {"name": "GENRES", "type": "string"}]
    if form == "wider items":
        fields.append({"name": "YEAR", "type": ["int", "null"]})  # type: ignore[dict-item]
    record = {"type": "record", "name": "Items", "namespace": "com.amazonaws.personalize.schema"}
    return json.dumps(record | {"fields": fields, "version": "1.0"})


@cache
def _write_input_once() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """Writes the input of all sequences to a folder that stands for the bucket."""
    directory = tempfile.TemporaryDirectory()
    folder = Path(directory.name)
    for form, event_type in (("plain", None), ("events", "watch")):
        (folder / form).write_bytes(encode_csv(build_taste_rows(1000), event_type=event_type))
    (folder / "items").write_text("ITEM_ID,GENRES\ni1,Comedy\n")
    (folder / "wider items").write_text("ITEM_ID,GENRES,YEAR\ni1,Comedy,\n")
    (folder / "input").write_bytes(
        b"".join(b'{"userId":"%s","itemId":"i1"}\n' % user.encode() for user in USERS)
    )
    return folder, directory


def _open_store(home: Path, data: Path) -> ObjectStore:
    return ObjectStore(folders={"data": data, "out": home / "out"})


def _work_until_killed(home: Path, data: Path) -> None:
    """Works in a process of its own until somebody kills it."""
    LocalPersonalize(home, _open_store(home, data))
    time.sleep(DEADLINE_SECONDS)


class Sequences(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.data, _ = _write_input_once()
        self.model = Model()
        self.service = self._open_idle()

    def _open_idle(self) -> LocalPersonalize:
        return open_idle_service(self.home, _open_store(self.home, self.data))

    def teardown(self) -> None:
        self.service.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _ask(self, operation: str, params: dict[str, Any], expected: str | None) -> dict[str, Any]:
        """Sends a request and checks that it is refused with the expected code, or answered."""
        try:
            answer = self.service.call(operation, params)
        except ServiceError as error:
            answer, refusal = {}, error.code
        else:
            refusal = ""
        assert refusal == (expected or ""), (operation, params)
        return answer

    def _create(
        self, params: dict[str, Any], resource: ModelResource, arn: str, expected: str | None
    ) -> None:
        answer = self._ask(f"Create{resource.kind}", params, expected)
        if expected is None:
            assert answer == {_name_arn_member(resource.kind): arn}
            self.model.resources.pop(arn, None)  # the new one is the last of its list
            self.model.resources[arn] = resource

    def _pick(self, kind: str, pick: int) -> str:
        """The ARN of an existing resource of the kind, or of one that does not exist."""
        arns = self.model.list_arns(kind)
        return arns[pick % len(arns)] if arns and pick != NONE else _build_arn(kind, "none")

    @initialize(stages=st.sampled_from([0, *[1] * 2, *[2] * 5]))
    def begin(self, stages: int) -> None:
        """Most sequences begin with what takes many requests to make."""
        if not stages:
            return
        self.create_group("a")
        self.create_schema("a", "events")
        self.create_schema("b", "items")
        self.create_schema("c", "wider items")
        self.work()
        self.create_dataset("a", "a", "INTERACTIONS")
        self.create_dataset("a", "b", "ITEMS")
        self.create_solution("a", "a", False)
        self.create_solution("a", "b", True)
        self.work()
        if stages == 1:
            return
        self.create_filter("a", "a")
        self.create_import(0, "first", "events", "FULL")
        self.work()
        self.create_version(0, "first")
        self.create_version(1, "first")
        self.work()

    @rule(name=NAMES)
    def create_group(self, name: str) -> None:
        arn = _build_arn("DatasetGroup", name)
        expected = self.model.create(arn)
        self._create({"name": name}, ModelResource("DatasetGroup", group=arn), arn, expected)

    @rule(name=NAMES, form=FORMS)
    def create_schema(self, name: str, form: str) -> None:
        arn = _build_arn("Schema", name)
        expected = self.model.create(arn)
        resource = ModelResource("Schema", None, form=form)
        self._create({"name": name, "schema": _build_schema(form)}, resource, arn, expected)

    @rule(group=NAMES, schema=NAMES, dataset_type=st.sampled_from(["INTERACTIONS", "ITEMS"]))
    def create_dataset(self, group: str, schema: str, dataset_type: str) -> None:
        group_arn = _build_arn("DatasetGroup", group)
        schema_arn = _build_arn("Schema", schema)
        arn = self.model.build_dataset_arn(group_arn, dataset_type)
        params = {
            "name": "d",
            "datasetGroupArn": group_arn,
            "schemaArn": schema_arn,
            "datasetType": dataset_type.title(),
        }
        resource = ModelResource("Dataset", parent=group_arn, group=group_arn, schema=schema_arn)
        expected = self.model.create_dataset(group_arn, schema_arn, dataset_type)
        self._create(params, resource, arn, expected)

    @rule(
        dataset=PICKS,
        job=NAMES,
        form=st.sampled_from([*TYPES, "events", "events", "nothing"]),
        mode=st.sampled_from(["FULL", "INCREMENTAL"]),
    )
    def create_import(self, dataset: int, job: str, form: str, mode: str) -> None:
        dataset_arn = self._pick("Dataset", dataset)
        arn = _build_arn("DatasetImportJob", job)
        expected = self.model.create_import(dataset_arn, arn, full=mode == "FULL")
        params = {
            "jobName": job,
            "datasetArn": dataset_arn,
            "dataSource": {"dataLocation": f"s3://data/{form}"},
            "importMode": mode,
            "roleArn": ROLE,
        }
        resource = ModelResource(
            "DatasetImportJob", parent=dataset_arn, form=form, full=mode == "FULL"
        )
        self._create(params, resource, arn, expected)

    @rule(group=NAMES, name=NAMES, segments=st.booleans())
    def create_solution(self, group: str, name: str, segments: bool) -> None:
        group_arn, arn = _build_arn("DatasetGroup", group), _build_arn("Solution", name)
        expected = self.model.refuse_unready(group_arn) or self.model.create(arn)
        recipe = RECIPE + ("aws-item-affinity" if segments else "aws-sims")
        params = {
            "name": name,
            "datasetGroupArn": group_arn,
            "recipeArn": recipe,
            "performAutoTraining": False,
        }
        resource = ModelResource("Solution", parent=group_arn, group=group_arn, segments=segments)
        self._create(params, resource, arn, expected)

    @rule(group=NAMES, name=NAMES)
    def create_filter(self, group: str, name: str) -> None:
        group_arn, arn = _build_arn("DatasetGroup", group), _build_arn("Filter", name)
        params = {"name": name, "datasetGroupArn": group_arn, "filterExpression": SEEN}
        resource = ModelResource("Filter", parent=group_arn, group=group_arn)
        self._create(params, resource, arn, self.model.create_filter(arn, group_arn))

    @rule(solution=PICKS, name=NAMES)
    def create_version(self, solution: int, name: str) -> None:
        solution_arn = self._pick("Solution", solution)
        expected = self.model.create_version(solution_arn, name)
        params = {"solutionArn": solution_arn, "name": name}
        answer = self._ask("CreateSolutionVersion", params, expected)
        if expected is None:
            version_resource = replace(
                self.model.resources[solution_arn], kind="SolutionVersion", name=name
            )
            version_resource = replace(version_resource, parent=solution_arn, status=PENDING)
            self.model.resources[answer["solutionVersionArn"]] = version_resource

    @rule(
        kind=st.sampled_from(["BatchInferenceJob", "BatchSegmentJob"]),
        version=PICKS,
        job=NAMES,
        filter_pick=st.none() | PICKS,
    )
    def create_batch(self, kind: str, version: int, job: str, filter_pick: int | None) -> None:
        version_arn = self._pick("SolutionVersion", version)
        arn = _build_arn(kind, job)
        filter_arn = None if filter_pick is None else self._pick("Filter", filter_pick)
        params = {
            "jobName": job,
            "solutionVersionArn": version_arn,
            "roleArn": ROLE,
            "jobInput": {"s3DataSource": {"path": "s3://data/input"}},
            "jobOutput": {"s3DataDestination": {"path": f"s3://out/{kind}/{job}/"}},
            **({"filterArn": filter_arn} if filter_arn else {}),
        }
        expected = self.model.create_batch(kind, arn, version_arn, filter_arn)
        version_resource = self.model.resources.get(version_arn)
        group = version_resource.group if version_resource else None
        resource = ModelResource(kind, parent=version_arn, group=group, filter=filter_arn)
        self._create(params, resource, arn, expected)
        if expected is None:  # perhaps under the name of an earlier job
            shutil.rmtree(self.home / "out" / kind / job, ignore_errors=True)

    @rule(version=PICKS)
    def stop(self, version: int) -> None:
        arn = self._pick("SolutionVersion", version)
        expected = self.model.stop(arn)
        self._ask("StopSolutionVersionCreation", {"solutionVersionArn": arn}, expected)
        if expected is None:
            self.model.resources[arn].status = STOPPED

    @rule(kind=DELETED, pick=PICKS)
    def delete(self, kind: str, pick: int) -> None:
        self._delete(kind, self._pick(kind, pick))

    def _delete(self, kind: str, arn: str) -> None:
        expected = self.model.delete(arn)
        self._ask(f"Delete{kind}", {_name_arn_member(kind): arn}, expected)
        if expected is None and kind == "Schema":
            del self.model.resources[arn]
        elif expected is None:
            self.model.resources[arn].status = DELETING

    @rule(kind=KINDS, pick=PICKS)
    def describe(self, kind: str, pick: int) -> None:
        arn = self._pick(kind, pick)
        resource = self.model.resources.get(arn)
        answer = self._ask(
            f"Describe{kind}", {_name_arn_member(kind): arn}, None if resource else MISSING
        )
        for description in answer.values():
            assert resource
            assert description[_name_arn_member(kind)] == arn
            assert description.get("status") == resource.status
            assert ("failureReason" in description) == (resource.status == FAILED)
            if kind != "Schema" and not kind.endswith("Job"):
                assert description["datasetGroupArn"] == resource.group
            if kind == "Dataset":
                assert description["schemaArn"] == resource.schema

    @rule(pick=PICKS)
    def get_metrics(self, pick: int) -> None:
        arn = self._pick("SolutionVersion", pick)
        expected = self.model.refuse_unready(arn)
        answer = self._ask("GetSolutionMetrics", {"solutionVersionArn": arn}, expected)
        assert expected or 0 < answer["metrics"]["coverage"] <= 1

    @rule(kind=KINDS, size=st.integers(1, 3))
    def list_in_pages(self, kind: str, size: int) -> None:
        listed_arns: list[str] = []
        params: dict[str, Any] = {"maxResults": size}
        while True:
            answer = self._ask(f"List{kind}s", params, None)
            (page,) = (value for value in answer.values() if isinstance(value, list))
            assert len(page) <= size
            listed_arns += [entry[_name_arn_member(kind)] for entry in page]
            if "nextToken" not in answer:
                break
            assert len(page) == size
            params["nextToken"] = answer["nextToken"]
        assert listed_arns == self.model.list_arns(kind)

    @rule(name=NAMES, value=NAMES)
    def tag(self, name: str, value: str) -> None:
        arn = _build_arn("DatasetGroup", name)
        expected = None if arn in self.model.resources else MISSING
        tags = [{"tagKey": "k", "tagValue": value}]
        self._ask("TagResource", {"resourceArn": arn, "tags": tags}, expected)
        if expected is None:
            self.model.resources[arn].tags = {"k": value}

    @rule()
    def reopen(self) -> None:
        self.service.close()
        self.service = self._open_idle()

    @rule(seconds=st.floats(0, 0.1))
    def crash_at_work(self, seconds: float) -> None:
        """A process that has taken up the work is killed; the next one finds what it left."""
        process = FORKS.Process(target=_work_until_killed, args=(self.home, self.data), daemon=True)
        process.start()
        time.sleep(seconds)
        process.kill()
        process.join()
        self.work()

    @rule()
    def work(self) -> None:
        self.service.close()
        self.service = LocalPersonalize(self.home, _open_store(self.home, self.data))
        outcomes = self.model.predict_outcomes()
        statuses = {arn: self._wait_until_settled(arn, right) for arn, right in outcomes.items()}
        for arn, status in statuses.items():
            if self.model.resources[arn].kind.startswith("Batch"):
                self._check_output(arn, whole=status == ACTIVE)
        self.model.settle(statuses)
        self.service.close()
        self.service = self._open_idle()

    def _wait_until_settled(self, arn: str, right: set[str]) -> str:
        """Waits until a status lasts, and checks that it is one of the right ones."""
        kind = self.model.resources[arn].kind
        for _ in poll_until_deadline():
            description = self._describe(kind, arn)
            status = str(description.get("status"))
            if status in right:
                return status
            assert status not in (FAILED, STOPPED, "gone"), (arn, description, right)
        raise AssertionError(f"{arn} is {description} and not {right}")

    def _describe(self, kind: str, arn: str) -> dict[str, Any]:
        try:
            answer = self.service.call(f"Describe{kind}", {_name_arn_member(kind): arn})
        except ResourceNotFoundError:
            return {"status": "gone"}
        return dict(next(iter(answer.values())))

    def _check_output(self, arn: str, *, whole: bool) -> None:
        folder = self.home / "out" / self.model.resources[arn].kind / arn.rpartition("/")[2]
        assert (folder / "_CHECK").exists() == whole
        if whole:
            assert len((folder / "input.out").read_text().splitlines()) == len(USERS)

    @precondition(lambda self: len(self.model.resources) > 9)
    @rule(name=NAMES)
    def tear_down(self, name: str) -> None:
        """What random requests would seldom do: delete a whole group, in the right order."""
        group = _build_arn("DatasetGroup", name)
        self.work()
        for kind in ("Solution", "Dataset"):
            for arn in self.model.list_arns(kind, group):
                self._delete(kind, arn)
        self.work()
        self._delete("DatasetGroup", group)
        self.work()

    @invariant()
    def tags_are_kept(self) -> None:
        for arn in self.model.list_arns("DatasetGroup"):
            tags = self._ask("ListTagsForResource", {"resourceArn": arn}, None)["tags"]
            assert {tag["tagKey"]: tag["tagValue"] for tag in tags} == self.model.resources[
                arn
            ].tags


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=repeats(12, 3),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
