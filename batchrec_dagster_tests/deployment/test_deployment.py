"""The environment's settings: what they choose, and what is told when they cannot work."""

import re
import shutil
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.deployment import (
    SETTINGS,
    Deployment,
    DeploymentError,
    find_misspelt_settings,
)
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster_tests.guard.builders import REPOSITORY, Project
from batchrec_dagster_tests.texts import assert_texts

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


def test_prices_are_the_defaults_and_those_of_the_file(tmp_path: Path) -> None:
    assert Deployment.from_environment({}).personalize_resource.read_prices() == Prices()
    file = tmp_path / "prices.yaml"
    file.write_text("import_per_gb: 0.06\n")
    own = Deployment.from_environment({"BATCHREC_PRICES": str(file)}).personalize_resource
    assert own.read_prices() == Prices(import_per_gb=0.06)


# Environments, and the variable that the message names.
REFUSED: list[tuple[dict[str, str], str]] = [
    ({"BATCHREC_STORAGE": "gs://b"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": "s3://"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": "s3://b/../c"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_PERSONALIZE": "moto"}, "BATCHREC_PERSONALIZE"),
    ({**AWS, "BATCHREC_STORAGE": "data"}, "BATCHREC_STORAGE"),
    ({**AWS, "BATCHREC_ROLE_ARN": ""}, "BATCHREC_ROLE_ARN"),
    ({**AWS, "BATCHREC_ROLE_ARN": "me"}, "BATCHREC_ROLE_ARN"),
    ({"BATCHREC_BUSY_SECONDS": "soon"}, "BATCHREC_BUSY_SECONDS"),
    ({"BATCHREC_MAX_FILE_GB": "much"}, "BATCHREC_MAX_FILE_GB"),
    ({"BATCHREC_MAX_LINE_KB": "0"}, "BATCHREC_MAX_LINE_KB"),
    ({"BATCHREC_POLL_SECONDS": "-1"}, "BATCHREC_POLL_SECONDS"),
    ({"BATCHREC_STORAGE": "s3://My_Bucket/a"}, "BATCHREC_STORAGE"),
    ({"BATCHREC_STORAGE": __file__}, "BATCHREC_STORAGE"),
    ({"BATCHREC_HOME": __file__}, "BATCHREC_HOME"),
    ({"DAGSTER_HOME": "dagster"}, "DAGSTER_HOME"),
    ({"BATCHREC_DEADLINE_HOURS": "0"}, "BATCHREC_DEADLINE_HOURS"),
    ({"BATCHREC_PRICES": "prices.yaml"}, "BATCHREC_PRICES"),
    ({"BATCHREC_TAGS": "team"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": "team=r&d"}, "BATCHREC_TAGS"),
    ({"BATCHREC_TAGS": "aws:team=data"}, "BATCHREC_TAGS"),
]


def test_invalid_variables_fail_at_load_time() -> None:
    texts = []
    for environment, variable in REFUSED:
        with pytest.raises(DeploymentError) as error:
            Deployment.from_environment(environment)
        message = str(error.value)
        assert variable in message
        texts.append((f"{variable}={environment[variable]}", message))
    assert_texts("variables", [(_shorten(title), _shorten(text)) for title, text in texts])


def _shorten(text: str) -> str:
    """The text without the paths of this machine."""
    return text.replace(__file__, "FILE").replace(str(Path.cwd()), "FOLDER")


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
