"""The environment's settings: what they choose, and what is told when they cannot work."""

import dagster as dg
import pytest

from batchrec_dagster.deployment import Deployment, DeploymentError

ROLE = "arn:aws:iam::123456789012:role/Personalize"
AWS = {"BATCHREC_PERSONALIZE": "aws", "BATCHREC_STORAGE": "s3://b/p", "BATCHREC_ROLE_ARN": ROLE}


def test_by_default_everything_is_on_this_machine() -> None:
    deployment = Deployment.from_environment({})
    assert deployment.embedded
    assert deployment.storage == str(deployment.home / "storage")
    assert deployment.executor() is dg.in_process_executor
    storage = deployment.resources()["storage"]
    assert storage.uri("a/b.csv") == "s3://batchrec-local/a/b.csv"
    assert storage.where(storage.uri("a/b.csv")) == str(deployment.home / "storage/a/b.csv")


def test_on_aws_it_is_a_bucket_a_role_and_a_process_a_step() -> None:
    deployment = Deployment.from_environment({**AWS, "AWS_REGION": "eu-west-1"})
    assert not deployment.embedded
    assert deployment.executor() is dg.multiprocess_executor
    resources = deployment.resources()
    assert resources["storage"].uri("a.csv") == "s3://b/p/a.csv"
    personalize = resources["personalize"]
    assert (personalize.role_arn, personalize.region_name) == (ROLE, "eu-west-1")
    assert (personalize.poll_seconds, personalize.busy_seconds) == (30, 300)
    impatient = {**AWS, "BATCHREC_BUSY_SECONDS": "60", "BATCHREC_DEADLINE_HOURS": "2.5"}
    personalize = Deployment.from_environment(impatient).resources()["personalize"]
    assert (personalize.busy_seconds, personalize.deadline_hours) == (60, 2.5)


@pytest.mark.parametrize(
    ("environment", "said"),
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
        ({"BATCHREC_DEADLINE_HOURS": "0"}, "BATCHREC_DEADLINE_HOURS is '0': set a number above 0"),
    ],
)
def test_what_cannot_work_is_told_at_load(environment: dict[str, str], said: str) -> None:
    with pytest.raises(DeploymentError, match=said):
        Deployment.from_environment(environment)
