"""Tests of the walkthrough by the AWS SDK for JavaScript v3, an independent client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    encode_user_lines,
)

pytestmark = pytest.mark.slow

# The SDK's packages are installed in this folder, once for each clone.
FOLDER = REPOSITORY / "batchrec_dagster_tests/local_personalize/javascript"
USERS = ["u1", "u2", "u3"]


@pytest.fixture
def node() -> str:
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules").is_dir():
        pytest.skip(f"install Node.js 20 or newer, and run: npm ci --prefix {FOLDER}")
    return node


def test_the_walkthrough_with_commands_and_paginators(node: str, tmp_path: Path) -> None:
    personalize = StartedPersonalize(tmp_path, bucket="films")
    personalize.put("interactions.csv", encode_csv(build_taste_rows()))
    personalize.put("users.json", encode_user_lines(USERS))
    nobody = {name: value for name, value in os.environ.items() if "AWS" not in name}
    try:
        result = subprocess.run(
            [node, "walkthrough.mjs", personalize.bucket, personalize.role_arn],
            cwd=FOLDER,
            env={
                **nobody,
                **personalize.environment,
                "AWS_REGION": "us-east-1",
                "HOME": str(tmp_path),  # no configuration, no credentials
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        lines = personalize.get("recommendations/users.json.out").decode().splitlines()
    finally:
        personalize.close()
    output = json.loads(result.stdout)
    lists = output["lists"]
    assert lists.pop("campaigns") == lists.pop("recommenders") == [[]]
    assert {name: [entry for page in pages for entry in page] for name, pages in lists.items()} == {
        "groups": ["films"],
        "schemas": ["films", "other"],
        "imports": ["first", "second"],
        "filters": ["seen"],
        "jobs": ["nightly"],
    }
    assert [len(page) for page in lists["schemas"]] == [1, 1]
    assert output["refusals"] == [
        "ResourceAlreadyExistsException",
        "ResourceInUseException",
        "InvalidInputException",
    ]
    assert 0 < output["metrics"]["precision_at_5"] <= 1
    assert output["left"] == [[]]
    answers = [json.loads(line) for line in lines]
    assert [answer["input"]["userId"] for answer in answers] == USERS
    assert all(len(answer["output"]["recommendedItems"]) == 5 for answer in answers)
