"""`batchrec verify-aws`: budgeted, resumed after a kill, and nothing is left behind."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.aws_questions import QUESTIONS, describe_lines
from batchrec_dagster.doctor.aws_trial import count_users_with_seen_items, generate_ratings
from batchrec_dagster.doctor.verify_aws import Verification
from batchrec_dagster.personalize.resource_kinds import (
    DATASET,
    DATASET_GROUP,
    FILTER,
    SCHEMA,
    SOLUTION,
)
from batchrec_dagster.steps.training import now
from batchrec_dagster_tests.support import Project, killed_at

COMMAND = ("batchrec", "verify-aws", "--yes")


def open_verification(folder: Path, **environment: str) -> Verification:
    """Opens the verification in the folder's file, on the deployment in the folder."""
    settings = {"BATCHREC_HOME": str(folder / ".batchrec"), **environment}
    personalize = Deployment.from_environment(settings).personalize_resource
    return Verification.open(folder / "verify-aws.json", personalize, logging.getLogger("test"))


def list_leftovers(folder: Path) -> list[str]:
    """Names in Personalize, and files in the storage."""
    verification = open_verification(folder)
    kinds = (DATASET_GROUP, SCHEMA, DATASET, SOLUTION, FILTER)
    names = [str(resource["name"]) for kind in kinds for resource in verification.ensure.list(kind)]
    return names + [
        file.uri for file in verification.personalize.storage.store.list(verification.trial.uri(""))
    ]


def add_bill(verification: Verification, ended_days_ago: int) -> dict[str, Any]:
    """What a later call finds out about the bill, on AWS."""
    days = {"started": ended_days_ago + 1, "ended": ended_days_ago}
    times = {key: f"{now() - timedelta(days=n):%FT%TZ}" for key, n in days.items()}
    verification.state.update(times, stage="deleted")
    replace(verification, ensure=replace(verification.ensure, on_aws=True)).run()
    bill: dict[str, Any] = json.loads(verification.file.read_text())["answers"]["bill"]
    return bill


@pytest.mark.slow
def test_a_killed_call_is_continued_and_leaves_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path)
    training = "training aws-user-personalization"
    killed_at(project, COMMAND, f"{training} (FULL)")
    file = tmp_path / "verify-aws.json"
    first = json.loads(file.read_text())["answers"]
    assert first["v2_lines"]["answer"]["line"] == ["error", "input", "output"]
    assert first["v2_lines"]["answer"]["read_by_batchrec"] == "50 lines"
    assert first["over_500"]["answer"] == {"asked": 600, "least": 600, "most": 600}
    assert set(first) == {"create_solution", "v2_lines", "policy", "kms", "over_500"}
    # An unexpected output of a job is an answer too, and the other questions are still asked.
    state = json.loads(file.read_text())
    del state["answers"]["over_500"], first["over_500"]
    file.write_text(json.dumps(state))
    (output,) = project.storage.glob("verify-aws-*/**/many/*.out")
    output.write_text("recommendations: 600\n")

    result = project.run(*COMMAND)
    assert result.returncode == 0, result.stderr
    # The second call adopts what the first has trained.
    training_lines = [line for line in result.stderr.splitlines() if line.startswith("training")]
    assert training_lines == [f"{training} (UPDATE)"]
    text = file.read_text()
    answers = json.loads(text)["answers"]
    assert answers.items() >= first.items()
    assert set(answers) == {question.name for question in QUESTIONS}
    assert answers["over_500"]["status"] == "unexpected"
    skipped_names = {name for name, entry in answers.items() if entry["status"] == "skipped"}
    assert skipped_names == {"kms", "glue", "bill"}
    assert {answers[name]["reason"] for name in skipped_names} == {"local"}
    update, full = answers["update"]["answer"], answers["versions"]["answer"]
    assert update["name"].endswith("-update")
    assert set(update["metrics"]) == set(full["aws-user-personalization"]["metrics"])
    exploration = answers["exploration"]["answer"]
    assert exploration["same_lists_twice_with_weight_0"] == exploration["users"] == 50
    assert "10 at most" in answers["event_types"]["answer"]["11"]
    assert answers["create_solution"]["answer"] == {
        "allowed": True,
        "recipe": "arn:aws:personalize:::recipe/aws-user-personalization-v2",
    }
    # A user whom the model does not know gets popular items; a request without a user, an error.
    error_lines = answers["error_lines"]["answer"]
    errors = [json.loads(line)["error"] for line in error_lines["lines"]]
    assert errors == [None, "User error: Required fields for the provided recipe are userId", None]
    assert error_lines["read_by_batchrec"] == "3 lines, 1 of them with an error"
    assert answers["any_event"]["status"] == "refused"
    assert "it needs the field EVENT_TYPE" in answers["any_event"]["reason"]
    repeats = answers["repeats"]["answer"]
    assert set(repeats) == {
        "schema",
        "filter",
        "solution",
        "dataset import job",
        "solution version",
    }
    for answer in repeats.values():
        assert "ResourceAlreadyExistsException" in answer["at_once"]
        assert "ResourceAlreadyExistsException" in answer["when_active"]
    lag = answers["lag"]["answer"]
    assert set(lag) == set(repeats) - {"solution version"}
    for answer in lag.values():
        assert (answer["describes_without_it"], answer["lists_without_it"]) == (0, 0)
    assert set(answers["tags"]["answer"].values()) == {"all came back"}
    assert len(answers["tags"]["answer"]) == 7
    deletion = answers["deletion"]["answer"]
    assert deletion["status"] == "COMPLETED"
    assert deletion["records_deleted"] == deletion["interactions_of_erased_users"] == 207
    # They get popular items, as people whom the model does not know.
    assert deletion["lists_of_erased_users"] == {"users": 3, "with_list": 3, "with_same_list": 0}
    assert deletion["lists_of_other_users"] == {
        "users": 47,
        "with_list": 47,
        "with_same_list": 47,
    }
    assert answers["names"]["answer"] == {"free_again": True}
    # The file is meant to be sent to others.
    summary = file.with_suffix(".md").read_text()
    assert all(question.text in summary for question in QUESTIONS)
    assert ":ACCOUNT:" in summary
    assert "000000000000" not in text + summary
    assert list_leftovers(tmp_path) == []


def test_lists_with_seen_items_are_counted() -> None:
    ratings = generate_ratings()
    user, seen_item = (str(value) for value in ratings.select("userID", "movieID").row(0))
    lists = [[seen_item, "none"], ["none"], []]
    lines: list[dict[str, Any]] = [
        {"input": {"userId": user}, "output": {"recommendedItems": items}} for items in lists
    ]
    assert count_users_with_seen_items(lines) == 1


def test_what_is_in_lines_is_reported_whatever_it_is() -> None:
    output = {"recommendedItems": ["1", "2"], "scores": [0.5, 0.25]}
    padded_output = {**output, "scores": [0.5], "reasons": [[], ["popular"]]}
    lines: list[dict[str, Any]] = [
        {"input": {"userId": "a"}, "output": output, "error": None},
        {"input": {"userId": "b"}, "output": padded_output, "error": None, "more": 1},
        {"input": {"userId": "c"}, "output": {**output, "scores": [0.5, float("nan")]}},
        {"input": {"userId": "d"}, "output": None, "error": "unknown"},
    ]
    description = describe_lines(lines)
    assert json.loads(description.pop("example")) == lines[1]
    assert description == {
        "line": ["error", "input", "more", "output"],
        "output": ["reasons", "recommendedItems", "scores"],
        "users": 4,
        "users_with_fewer_scores_than_items": 1,
        "users_with_nan": 1,
        "errors": ["unknown"],
        "read_by_batchrec": "4 lines",
    }
    other_description = describe_lines(
        [{"input": "a", "output": {"recommendedItems": [{"id": 1}]}}]
    )
    assert "not a batch inference output file" in other_description["read_by_batchrec"]


@pytest.mark.slow
def test_what_an_interrupted_call_made_is_deleted_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    result = run.invoke(main, ["verify-aws", "--delete"])
    assert result.exit_code == 1
    assert "there is no verify-aws.json" in result.output
    verification = open_verification(tmp_path)
    verification._save()
    verification.trial.start_import()
    assert len(list_leftovers(tmp_path)) == 5
    deletion = run.invoke(main, ["verify-aws", "--delete"])
    assert deletion.exit_code == 0, deletion.output
    assert list_leftovers(tmp_path) == []
    # A later call asks only for the bill.
    later_result = run.invoke(main, ["verify-aws"])
    assert later_result.exit_code == 0, later_result.output
    assert list(json.loads(verification.file.read_text())["answers"]) == ["bill"]


def test_more_than_the_budget_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    result = run.invoke(main, ["verify-aws", "--budget", "0.5", "--yes"])
    assert result.exit_code == 1
    assert "more than --budget 0.5: nothing was made" in result.output
    assert "training aws-user-personalization (UPDATE)" in result.output
    assert run.invoke(main, ["verify-aws", "--budget", "11"]).exit_code == 2
    result_without_consent = run.invoke(main, ["verify-aws"], input="n\n")
    assert result_without_consent.exit_code == 1
    assert "this costs 1.1" in result_without_consent.output
    assert list(tmp_path.glob("verify-aws*")) == []
    assert list_leftovers(tmp_path) == []


def test_answers_of_another_deployment_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_verification(tmp_path, BATCHREC_ROLE_ARN="arn:aws:iam::123456789012:role/other")._save()
    result = CliRunner().invoke(main, ["verify-aws", "--yes"])
    assert result.exit_code == 1
    assert "another deployment's answers" in result.output


@pytest.mark.slow
def test_the_bill_is_added_on_a_later_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    usage = {"Amount": "0.49", "Unit": "USD"}
    metrics = {"UnblendedCost": usage, "UsageQuantity": {"Amount": "2.04", "Unit": "Hours"}}
    day: dict[str, Any] = {
        "TimePeriod": {"Start": "2026-11-26", "End": "2026-11-27"},
        "Groups": [{"Keys": ["EU-TrainingHours"], "Metrics": metrics}],
    }
    with mock_aws():
        requests.post(
            "http://motoapi.amazonaws.com/moto-api/static/ce/cost-and-usage-results",
            json={"results": [{"ResultsByTime": [day]}, {"ResultsByTime": []}]},
            timeout=10,
        )
        verification = open_verification(tmp_path, AWS_REGION="eu-west-1")
        today = add_bill(verification, 0)
        assert today["status"] == "pending"
        assert "run the command again after" in today["reason"]
        yesterday = add_bill(verification, 1)
        assert yesterday["status"] == "answered"
        assert yesterday["answer"]["billed"] == [
            {"day": "2026-11-26", "usage_type": "EU-TrainingHours", **metrics}
        ]
        del verification.state["answers"]["bill"]
        assert "has nothing of Personalize yet" in add_bill(verification, 2)["reason"]
