"""The AWS SDK for JavaScript v3, a client that nobody here wrote, does the walkthrough."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.local_personalize.support import csv_bytes, taste_rows, user_lines

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "javascript"
USERS = ["u1", "u2", "u3"]


@pytest.fixture
def node() -> str:
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules").is_dir():
        pytest.skip(f"install Node.js 20 or newer, and run: npm ci --prefix {FOLDER}")
    return node


def test_the_walkthrough_with_commands_and_paginators(node: str, tmp_path: Path) -> None:
    started = StartedPersonalize(tmp_path, bucket="films")
    started.put("interactions.csv", csv_bytes(taste_rows()))
    started.put("users.json", user_lines(USERS))
    nobody = {name: value for name, value in os.environ.items() if "AWS" not in name}
    try:
        done = subprocess.run(
            [node, "walkthrough.mjs", started.bucket, started.role_arn],
            cwd=FOLDER,
            env={
                **nobody,
                **started.environment,
                "AWS_REGION": "us-east-1",
                "HOME": str(tmp_path),  # no configuration, no credentials
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = started.get("recommendations/users.json.out").decode().splitlines()
    finally:
        started.close()
    output = json.loads(done.stdout)
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
