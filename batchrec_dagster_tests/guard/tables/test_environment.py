"""Tests of environment variables: their effects, and the messages about wrong values."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    open_personalize,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server
from batchrec_dagster_tests.guard.tables.check_support import check, dagster_home, home
from batchrec_dagster_tests.texts import assert_texts

__all__ = ["dagster_home", "home"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]

ROLE = "arn:aws:iam::123456789012:role/Personalize"
AWS = {
    "BATCHREC_PERSONALIZE": "aws",
    "BATCHREC_STORAGE": "s3://bucket/p",
    "BATCHREC_ROLE_ARN": ROLE,
    "AWS_REGION": "eu-west-1",
}
# Environments with the variable that the message names.
REFUSED: list[tuple[dict[str, str], str]] = [
    ({"BATCHREC_STORAGE": "gs://b"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": "s3://"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": "s3://b/../c"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": "s3://My_Bucket/a"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": __file__}, "BATCHREC_STORAGE"),
    ({"BATCHREC_PERSONALIZE": "moto"}, "BATCHREC_PERSONALIZE"),
    ({**AWS, "BATCHREC_STORAGE": "data"}, "BATCHREC_STORAGE"),
    ({**AWS, "BATCHREC_ROLE_ARN": ""}, "BATCHREC_ROLE_ARN"),
    ({**AWS, "BATCHREC_ROLE_ARN": "me"}, "BATCHREC_ROLE_ARN"),
    ({"BATCHREC_BUSY_SECONDS": "soon"}, "BATCHREC_BUSY_SECONDS"),
    ({"BATCHREC_MAX_FILE_GB": "much"}, "BATCHREC_MAX_FILE_GB"),
    ({"BATCHREC_MAX_LINE_KB": "0"}, "BATCHREC_MAX_LINE_KB"),
    ({"BATCHREC_POLL_SECONDS": "-1"}, "BATCHREC_POLL_SECONDS"),
    ({"BATCHREC_HOME": __file__}, "BATCHREC_HOME"),
    ({"DAGSTER_HOME": "dagster"}, "DAGSTER_HOME"),
    ({"BATCHREC_DEADLINE_HOURS": "0"}, "BATCHREC_DEADLINE_HOURS"),
    ({"BATCHREC_PRICES": "prices.yaml"}, "BATCHREC_PRICES"),
    ({"BATCHREC_TAGS": "team"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": "team=r&d"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": "aws:team=data"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": "batchrec:pipeline=x"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": "team=a,team=b"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": f"{'k' * 129}=x"}, "BATCHREC_TAGS"),
    ({"BATCHREC_S3_RESOURCE": "resources"}, "BATCHREC_S3_RESOURCE"),
    ({"BATCHREC_S3_RESOURCE": "nowhere.resources:s3"}, "BATCHREC_S3_RESOURCE"),
]


def test_a_variable_that_cannot_work_is_named_with_what_to_write(home: Project) -> None:
    texts = []
    for environment, variable in REFUSED:
        status, text = check("--offline", **environment)["settings"]
        assert status == "FAILED", variable
        assert variable in text
        texts.append((f"{variable}={environment[variable]}", text.partition(" -> ")[0]))
    assert_texts("variables", [(_shorten(title), _shorten(text)) for title, text in texts])


def _shorten(text: str) -> str:
    """Return the text without paths of this machine and without long repetitions."""
    return (
        text.replace(__file__, "FILE").replace(str(Path.cwd()), "FOLDER").replace("k" * 129, "k…")
    )


@pytest.mark.parametrize(
    "environment",
    [
        {},
        AWS,
        {**AWS, "BATCHREC_BUSY_SECONDS": "60", "BATCHREC_DEADLINE_HOURS": "2.5"},
        {"BATCHREC_TAGS": " a b = c d , url=https://x.example:80/_@+-,equals=a=b,empty=,Größe=½"},
        {"BATCHREC_TAGS": f"{'k' * 128}={'v' * 256}"},
        {"BATCHREC_SHOP_DATABASE": "of the team's own"},
    ],
)
def test_variables_that_work_are_taken(home: Project, environment: dict[str, str]) -> None:
    assert check("--offline", **environment)["settings"][0] == "ok"


def test_on_aws_each_step_is_a_process_and_here_they_share_one(home: Project) -> None:
    home.declare(declaration("shop", "ratings.csv"))
    executors = []
    for environment in ({}, AWS):
        home.environment = environment
        with definitions(home) as defs:
            executors.append(defs.resolve_job_def("shop_refresh").executor_def)
    assert executors == [dg.in_process_executor, dg.multiprocess_executor]


def test_a_run_without_a_region_says_what_to_set(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.environment |= {"BATCHREC_PERSONALIZE": "http://127.0.0.1:9"}
    project.declare(declaration("shop", write_ratings(project.root / "ratings.csv")))
    result = refresh(project, "shop", instance)
    assert not result.success
    assert "AWS_REGION" in why(result)


@pytest.mark.usefixtures("first_run_of_shop")
def test_tags_are_on_what_is_created_and_other_tags_create_nothing_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.environment["BATCHREC_TAGS"] = "team=data"
    client = open_personalize(project)

    def list_tagged() -> list[bool]:
        versions = client.list_solution_versions()["solutionVersions"]
        arns = [version["solutionVersionArn"] for version in versions]
        tags = [client.list_tags_for_resource(resourceArn=arn)["tags"] for arn in arns]
        return [{"tagKey": "team", "tagValue": "data"} in tags_of_one for tags_of_one in tags]

    assert refresh(project, "shop", instance).success
    assert list_tagged() == [False]
    write_ratings(project.root / "ratings.csv", seed=1)
    assert refresh(project, "shop", instance).success
    assert list_tagged() == [False, True]


RESOURCES = f"""\
import dagster as dg
from dagster_aws.s3 import S3Resource

s3 = S3Resource(
    endpoint_url=dg.EnvVar("TEAM_ENDPOINT"),
    region_name="{REGION}",
    aws_access_key_id=dg.EnvVar("TEAM_KEY"),
    aws_secret_access_key=dg.EnvVar("TEAM_SECRET"),
)
not_s3 = 7
"""


def test_a_teams_own_s3_resource_reaches_the_bucket(home: Project, s3: S3Server) -> None:
    (home.package / "resources.py").write_text(RESOURCES)
    environment = {
        "BATCHREC_STORAGE": f"s3://{s3.create_bucket()}/batchrec",
        "BATCHREC_S3_RESOURCE": f"{home.package.name}.resources:s3",
        "TEAM_ENDPOINT": s3.endpoint,
        "TEAM_KEY": OWNER.access,
        "TEAM_SECRET": OWNER.secret,
    }
    assert check(**environment)["storage delete"][0] == "ok"
    wrong = {**environment, "BATCHREC_S3_RESOURCE": f"{home.package.name}.resources:not_s3"}
    status, text = check(**wrong)["settings"]
    assert status == "FAILED"
    assert "not_s3" in text


def test_a_local_run_asks_for_no_account(home: Project) -> None:
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 0
    assert "AWS_" not in result.output
