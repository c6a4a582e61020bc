"""The environment's settings: what they choose, and what is told when they cannot work."""

import re
import shutil

import dagster as dg
import pytest

from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.deployment import (
    SETTINGS,
    Deployment,
    DeploymentError,
    find_misspelt_settings,
)
from batchrec_dagster.local_personalize.api.client import QUOTAS_VARIABLE
from batchrec_dagster_tests.support import REPOSITORY, Project

ROLE = "arn:aws:iam::123456789012:role/Personalize"
AWS = {
    "BATCHREC_PERSONALIZE": "aws",
    "BATCHREC_STORAGE": "s3://bucket/p",
    "BATCHREC_ROLE_ARN": ROLE,
}


def test_by_default_everything_is_on_this_machine() -> None:
    deployment = Deployment.from_environment({})
    assert deployment.embedded
    assert deployment.storage == str(deployment.home / "storage")
    assert deployment.executor() is dg.in_process_executor
    storage = deployment.storage_resource
    assert storage.uri("a/b.csv") == "s3://batchrec-local/a/b.csv"
    assert storage.where(storage.uri("a/b.csv")) == str(deployment.home / "storage/a/b.csv")


def test_on_aws_it_is_a_bucket_a_role_and_a_process_a_step() -> None:
    deployment = Deployment.from_environment({**AWS, "AWS_REGION": "eu-west-1"})
    assert not deployment.embedded
    assert deployment.executor() is dg.multiprocess_executor
    resources = deployment.resources()
    assert resources["batchrec_storage"].uri("a.csv") == "s3://bucket/p/a.csv"
    personalize = resources["batchrec_personalize"]
    assert (personalize.role_arn, personalize.storage.s3.region_name) == (ROLE, "eu-west-1")
    assert (personalize.poll_seconds, personalize.busy_seconds) == (30, 300)
    impatient = {**AWS, "BATCHREC_BUSY_SECONDS": "60", "BATCHREC_DEADLINE_HOURS": "2.5"}
    personalize = Deployment.from_environment(impatient).personalize_resource
    assert (personalize.busy_seconds, personalize.deadline_hours) == (60, 2.5)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BATCHREC_STORAGE": "gs://b"}, "BATCHREC_STORAGE is 'gs://b': set a folder or s3://"),
        ({"BATCHREC_STORAGE": "s3://"}, "BATCHREC_STORAGE: 's3://' is not a storage URI"),
        ({"BATCHREC_STORAGE": "s3://b/../c"}, "BATCHREC_STORAGE: .* not allowed"),
        ({"BATCHREC_PERSONALIZE": "moto"}, "BATCHREC_PERSONALIZE is 'moto': set embedded, aws"),
        ({**AWS, "BATCHREC_STORAGE": "data"}, "set BATCHREC_STORAGE=s3://bucket/prefix"),
        ({**AWS, "BATCHREC_ROLE_ARN": ""}, "needs BATCHREC_ROLE_ARN"),
        ({**AWS, "BATCHREC_ROLE_ARN": "me"}, "BATCHREC_ROLE_ARN is 'me': set arn:aws:iam::"),
        (
            {"BATCHREC_BUSY_SECONDS": "soon"},
            "BATCHREC_BUSY_SECONDS is 'soon': set a number above 0",
        ),
        ({"BATCHREC_MAX_FILE_GB": "much"}, "BATCHREC_MAX_FILE_GB is 'much': set a number above 0"),
        ({"BATCHREC_MAX_LINE_KB": "0"}, "BATCHREC_MAX_LINE_KB is '0': set a number above 0"),
        ({"BATCHREC_POLL_SECONDS": "-1"}, "BATCHREC_POLL_SECONDS is '-1': set a number above 0"),
        ({"BATCHREC_STORAGE": "s3://My_Bucket/a"}, "My_Bucket/a': a bucket's name has 3 to 63"),
        ({"BATCHREC_STORAGE": __file__}, "BATCHREC_STORAGE is /.*: a file; set a folder"),
        ({"BATCHREC_HOME": __file__}, "BATCHREC_HOME is /.*: a file; set a folder"),
        ({"DAGSTER_HOME": "dagster"}, "DAGSTER_HOME is 'dagster': Dagster needs an absolute path"),
        ({"BATCHREC_MOVIELENS_URL": "mirror"}, "BATCHREC_MOVIELENS_URL is 'mirror': set an http"),
        ({QUOTAS_VARIABLE: "groups=9"}, f"{QUOTAS_VARIABLE}: 'groups=9' is not NAME=NUMBER"),
        ({"BATCHREC_DEADLINE_HOURS": "0"}, "BATCHREC_DEADLINE_HOURS is '0': set a number above 0"),
    ],
)
def test_invalid_variables_fail_at_load_time(environment: dict[str, str], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        Deployment.from_environment(environment)


def test_readme_has_every_setting_with_its_default() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    rows = {
        name: default.strip().replace("`", "")
        for name, default in re.findall(r"(?m)^\| `((?:BATCHREC|DAGSTER)_\w+)` \|([^|]*)\|", readme)
    }
    assert rows == {setting.name: setting.default for setting in SETTINGS}


def test_no_code_reads_a_variable_that_is_no_setting() -> None:
    """Beside those of the local Personalize's own server, which --help tells."""
    read = {
        name
        for path in (REPOSITORY / "batchrec_dagster").rglob("*.py")
        for name in re.findall(r"\b(BATCHREC_[A-Z_]+[A-Z])\b", path.read_text())
        if not name.startswith("BATCHREC_LOCAL_PERSONALIZE_")
    }
    assert read <= {setting.name for setting in SETTINGS}


def test_a_setting_that_is_misspelt_is_noticed() -> None:
    environment = {"BATCHREC_STORGE": "", "BATCHREC_STORAGE": "", "BATCHREC_SHOP_DATABASE": ""}
    assert find_misspelt_settings(environment) == {"BATCHREC_STORGE": "BATCHREC_STORAGE"}


def test_both_homes_are_made_for_their_user_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(REPOSITORY / "dagster.yaml", project.root)
    monkeypatch.chdir(project.root)
    for name in ("BATCHREC_HOME", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    dagster_home = use_dagster_home()
    assert dagster_home == project.root / ".batchrec/dagster"
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(project.root / "home")})
    deployment.make_home()
    for folder in (dagster_home, dagster_home.parent, deployment.home):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (dagster_home / "dagster.yaml").stat().st_mode & 0o777 == 0o600
