"""What `batchrec forget` says; what it does is told in the guard."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    table,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow


def declare(project: Project, **attributes: Any) -> None:
    shop = declaration("shop", "ratings.csv", **attributes)
    shop["ratings"]["on_bad_rows"] = "skip"
    project.declare(shop)


@dataclass(frozen=True)
class Shop:
    """A project that has run once, and its Dagster home."""

    project: Project
    monkeypatch: pytest.MonkeyPatch

    @property
    def home(self) -> Path:
        return self.project.root / ".batchrec" / "dagster"

    def enter(self) -> None:
        """Let commands of this process find it."""
        self.monkeypatch.chdir(self.project.root)
        variables = {
            "BATCHREC_HOME": str(self.project.root / ".batchrec"),
            "BATCHREC_POLL_SECONDS": "0.02",
            "DAGSTER_HOME": str(self.home),
            **self.project.environment,
        }
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def forget(self, *arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(main, ["forget", *arguments], input=answer)


@pytest.fixture
def first_shop(first_run: FirstRun, project: Project, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The pipeline of the session's first run, with its Personalize and storage."""
    first_run.copy_to(project)
    shop = Shop(project, monkeypatch)
    shop.home.mkdir(parents=True)
    shop.enter()
    return shop


def test_what_people_read(first_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = table(first_shop.project, "shop")
    texts = [("forget 7 --dry-run", first_shop.forget("7", "--dry-run").output)]
    texts += [("forget 7 --yes", first_shop.forget("7", "--yes").output)]
    assert table(first_shop.project, "shop").equals(lists.filter(pl.col("user_id") != "7"))
    # Somebody whom nothing has is left out from now on, too.
    texts += [("forget nobody --yes", first_shop.forget("nobody", "--yes").output)]
    # As if Personalize were Amazon's: what is left there, and what the next refresh costs.
    with monkeypatch.context() as context:
        context.setattr(PersonalizeResource, "on_aws", property(lambda _: True))
        texts += [("forget 9 --dry-run, on AWS", first_shop.forget("9", "--dry-run").output)]
    declare(first_shop.project, solution={"retrain": {"every_days": 7}})
    texts += [("forget 9 --dry-run, trained weekly", first_shop.forget("9", "--dry-run").output)]
    root = str(first_shop.project.root)
    texts = [
        (title, re.sub(r"[-0-9]{10}T[0-9]{6}Z", "TIME", text.replace(root, "PROJECT")))
        for title, text in texts
    ]
    assert_texts("forget", texts)
    record = first_shop.project.storage / "shop/records/erased_users.json"
    assert len(json.loads(record.read_text())["users"]) == 2
