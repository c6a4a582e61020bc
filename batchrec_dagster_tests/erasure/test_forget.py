"""`batchrec forget` after real runs: who is erased is in no byte that batchrec keeps, nor in sinks.

The people to erase have ids that nothing else contains, so that a search of all bytes finds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws

from batchrec_dagster.cli import main
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.erasure import plan
from batchrec_dagster.erasure.receipt import count_people
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    interactions,
    killed_at,
    module_project,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.oracles.marks import MARK, find_marks, read_files
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer, postgres_server
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow

PLAIN, ODD = f"{MARK}-forget-me", f'{MARK};o"dd, é=1'
KILLED_AFTER = ("interactions", "Personalize", "older editions", "report")
LISTS = "curated/recommendations/recommendations.parquet"
USERS = {
    "source": "users.csv",
    "columns": {"user": "id", "categories": {"CONSENT": "consent"}, "numbers": {"AGE": "age"}},
    "on_bad_rows": "skip",
}


def write_source(path: Path, *, nights: int) -> None:
    """Ratings with the people to erase first, and one of their rows unreadable."""
    write_ratings(path)
    header, *lines = path.read_text().splitlines()
    renamed = {"1": PLAIN, "2": '"{}"'.format(ODD.replace('"', '""'))}
    rows = []
    for line in lines:
        user, _, rest = line.partition(",")
        rows.append(f"{renamed.get(user, user)},{rest}")
    rows += [f"{PLAIN},1,bad,1500000000"]
    rows += [f"{user},{user % 7 + 1},5,{1_511_000_000 + user}" for user in range(3, 3 + nights)]
    path.write_text("\n".join([header, *rows]) + "\n")


def write_users(path: Path) -> None:
    """What is known of the users of `write_source`. The people to erase have an unreadable row."""
    odd = '"{}"'.format(ODD.replace('"', '""'))
    rows = [f"{PLAIN},yes,bad", f"{PLAIN},yes,30", f"{odd},yes,", f"{odd},yes,31"]
    rows += [f"{user},yes,{user}" for user in range(3, 61)]
    path.write_text("\n".join(["id,consent,age", *rows]) + "\n")


def declare(project: Project, **attributes: Any) -> None:
    shop = declaration("shop", "ratings.csv", **attributes)
    shop["ratings"]["on_bad_rows"] = "skip"
    project.declare(shop)


def read_objects(store: ObjectStore, root: str) -> Iterator[tuple[str, bytes]]:
    for info in store.list(root):
        yield info.uri, store.get(info.uri)


@dataclass(frozen=True)
class Shop:
    """A project that has run twice, and its Dagster home."""

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

    def run(self) -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.local_temp(str(self.home)) as instance:
            return refresh(self.project, "shop", instance, report=True)

    def forget(self, *arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(main, ["forget", *arguments], input=answer)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    project = module_project(tmp_path)
    write_source(project.root / "ratings.csv", nights=1)
    shop = Shop(project, monkeypatch)
    shop.home.mkdir(parents=True)
    shop.enter()
    return shop


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def dynamodb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """moto's DynamoDB with a table for lists. The embedded Personalize is not moto's."""
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws(config={"core": {"passthrough": {"services": ["personalize"]}}}):
        client: Any = boto3.client("dynamodb", region_name="eu-central-1")
        client.create_table(
            TableName="shop-lists",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
        )
        yield client


def run_two_nights(shop: Shop) -> None:
    for nights in (1, 2):
        write_source(shop.project.root / "ratings.csv", nights=nights)
        assert shop.run().success


def without_people(rows: pl.DataFrame, column: str = "user_id") -> pl.DataFrame:
    return rows.filter(~pl.col(column).is_in([PLAIN, ODD]))


def test_who_is_erased_is_in_no_byte_and_no_sink_and_stays_out(
    shop: Shop, postgres: PostgresServer, dynamodb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof on all places at once, which takes three refreshes."""
    project, url = shop.project, postgres.create_database("forget")
    monkeypatch.setenv("SHOP_DATABASE_URL", url)
    sinks = {
        "postgres": {"url_env": "SHOP_DATABASE_URL"},
        "dynamodb": {"table": "shop-lists"},
        "export": {"format": "csv"},
    }
    experiment = {"name": "first", "control": "popular", "control_share": 0.3}
    write_users(project.root / "users.csv")
    declare(
        project, sinks=sinks, segments={"items": ["1", "3"]}, experiment=experiment, users=USERS
    )
    run_two_nights(shop)
    storage = project.storage / "shop"
    segments = storage / "curated/user_segments/user_segments.parquet"
    history = storage / "curated/history/recommendations"
    before = [table(project, "shop"), interactions(project, "shop"), pl.read_parquet(segments)]
    (older_file,) = history.iterdir()
    older = pl.read_parquet(older_file)
    assert {PLAIN, ODD} <= set(before[0]["user_id"]) | set(before[1]["USER_ID"])
    marked = find_marks(read_files(project.root / ".batchrec"))
    assert len(marked) > 15, "the people are in few files: does the search find anything?"

    shown = shop.forget(PLAIN, ODD, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert find_marks(read_files(project.root / ".batchrec")) == marked
    refused = shop.forget(PLAIN, ODD, answer="n\n")
    assert refused.exit_code == 1
    assert find_marks(read_files(project.root / ".batchrec")) == marked
    erased = shop.forget(PLAIN, ODD, "--yes")
    assert erased.exit_code == 0, erased.output

    assert find_marks(read_files(project.root / ".batchrec")) == []
    rows = postgres.query("SELECT user_id, rank, item_id FROM recommendations", url=url)
    expected = without_people(before[0]).select("user_id", "rank", "item_id").rows()
    assert sorted(rows) == sorted(expected)
    items = dynamodb.scan(TableName="shop-lists")["Items"]
    assert {item["user_id"]["S"] for item in items} == set(without_people(before[0])["user_id"])
    assert MARK not in repr(items)
    assert MARK not in (storage / "curated/exports/recommendations.csv").read_text()
    assert table(project, "shop").equals(without_people(before[0]))
    assert interactions(project, "shop").equals(without_people(before[1], "USER_ID"))
    assert pl.read_parquet(segments).equals(without_people(before[2]))
    assert pl.read_parquet(older_file).equals(without_people(older))
    (receipt,) = (storage / "records/erasures").iterdir()
    record = json.loads(receipt.read_text())
    assert (record["people"], record["suppressed"], record["pipeline"]) == (2, 2, "shop")
    assert record["erased"]["published lists"] == f"{before[0].height - len(expected)} rows"
    assert record["erased"]["copies of users"] == "1 file"
    assert record["erased"]["attributes of users"] == "2 rows"
    assert list((storage / "records/unfinished_erasures").iterdir()) == []

    # The source still has them. The next refresh makes all that people see, without them.
    assert shop.run().success
    assert find_marks(read_files(project.root / ".batchrec")) == []
    assert (storage / "curated/report/index.html").exists()
    assert set(table(project, "shop")["user_id"]) == set(without_people(before[0])["user_id"])
    again = shop.forget(PLAIN, ODD, "--dry-run")
    assert "Not found anywhere." in again.output


def test_in_a_bucket(shop: Shop, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"s3://{s3.create_bucket()}/prefix"
    shop.project.environment.update({**s3.environment(OWNER), "BATCHREC_STORAGE": root})
    shop.enter()
    quick = {"recipe": "aws-user-personalization"}
    write_users(shop.project.root / "users.csv")
    declare(
        shop.project,
        sinks={"export": {"format": "jsonl"}},
        solution=quick,
        users=USERS,
        batch_users={"filter": 'USERS.CONSENT = "yes" AND USERS.AGE > 20'},
    )
    assert shop.run().success
    assert len(find_marks(read_objects(s3.store(), root))) > 5
    result = shop.forget(PLAIN, ODD, "--yes")
    assert result.exit_code == 0, result.output
    assert find_marks(read_objects(s3.store(), root)) == []
    assert find_marks(read_files(shop.project.root / ".batchrec")) == []
    lists = pl.read_parquet(s3.store().get(f"{root}/shop/{LISTS}"))
    assert set(lists["user_id"]) == set(map(str, range(21, 61)))
    # The next refresh reads the people again, and leaves them out.
    assert shop.run().success
    assert find_marks(read_objects(s3.store(), root)) == []


def test_an_erasure_that_is_interrupted_anywhere_continues(
    first_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = table(first_shop.project, "shop")
    others = lists.filter(~pl.col("user_id").is_in(["7", "9"]))
    list_places = plan.Erasure._list_places
    for stop in (0, 2, 6, 9, 15):

        def list_until(erasure: plan.Erasure, stop: int = stop) -> Iterator[tuple[str, Any]]:
            for place, (pipeline, real) in enumerate(list_places(erasure)):
                yield pipeline, _Interrupted(real) if place == stop else real

        with monkeypatch.context() as context:
            context.setattr(plan.Erasure, "_list_places", list_until)
            with pytest.raises(_Killed):
                first_shop.forget("7", "9", "--yes")
        unfinished = first_shop.project.storage / "shop/records/unfinished_erasures"
        (record,) = unfinished.iterdir()
        assert json.loads(record.read_text()).keys() == {"started_at", "request", "amounts"}
    # The same people, named in another order.
    result = first_shop.forget("9", "7", "--yes")
    assert result.exit_code == 0, result.output
    assert table(first_shop.project, "shop").equals(others)
    assert "Not found anywhere" in first_shop.forget("7", "9", "--dry-run").output
    (receipt,) = (first_shop.project.storage / "shop/records/erasures").iterdir()
    erased = json.loads(receipt.read_text())["erased"]
    assert erased["published lists"] == f"{lists.height - others.height} rows"
    assert list(unfinished.iterdir()) == []


@pytest.mark.parametrize("place", KILLED_AFTER[: repeats(len(KILLED_AFTER), 1)])
def test_a_process_that_is_killed_is_continued_by_another(first_shop: Shop, place: str) -> None:
    project = first_shop.project
    project.environment["BATCHREC_HOME"] = str(project.root / ".batchrec")
    killed_at(project, ["batchrec", "forget", "7", "--yes"], f"{place}: done")
    assert len(list((project.storage / "shop/records/unfinished_erasures").iterdir())) == 1
    result = first_shop.forget("7", "--yes")
    assert result.exit_code == 0, result.output
    assert "  26 rows of interactions" in result.output
    assert "Not found anywhere" in first_shop.forget("7", "--dry-run").output


def test_an_erasure_that_was_not_finished_is_named_until_it_is(
    first_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(plan.Erasure, "_require_erased", _kill)
        with pytest.raises(_Killed):
            first_shop.forget("7", "--yes")
    assert "1 other erasure has not ended" in first_shop.forget("9", "--dry-run").output
    assert "has not ended" not in first_shop.forget("7", "--yes").output
    assert "has not ended" not in first_shop.forget("9", "--dry-run").output


class _Killed(BaseException):
    """Stands for a kill, which no part of the command can catch."""


def _kill(erasure: plan.Erasure) -> None:
    raise _Killed


@dataclass(frozen=True)
class _Interrupted:
    """A place whose process is killed when it has erased."""

    place: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.place, name)

    def erase(self, people: Any) -> int:
        self.place.erase(people)
        raise _Killed


@pytest.fixture
def first_shop(first_run: FirstRun, project: Project, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The pipeline of the session's first run, with its Personalize and storage."""
    first_run.copy_to(project)
    shop = Shop(project, monkeypatch)
    shop.home.mkdir(parents=True)
    shop.enter()
    return shop


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"7\n9\n", 2),
        (b"\xef\xbb\xbfuser_id,mail\n7,a@example.org\n\n9,\n7,\n", 2),
        (b"userId\r\n7\r\n", 1),
        ('"a ""b"", c"\n=1\nü\n'.encode(), 3),
        (b"-7\n", 1),
    ],
)
def test_ids_of_a_file(first_shop: Shop, content: bytes, number: int) -> None:
    file = first_shop.project.root / "ids.csv"
    file.write_bytes(content)
    result = first_shop.forget("--file", "ids.csv", answer="n\n")
    assert f"Erase {count_people(number)}? This cannot be undone" in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        ([], b"", "name at least one USER, or --file"),
        (["--file", "ids.csv"], b"", "ids.csv has no ids"),
        (["--file", "ids.csv"], b"user_id\n\n", "ids.csv has no ids"),
        (["--file", "ids.csv"], b"\xff\xfe", "ids.csv cannot be read as CSV in UTF-8"),
        (["--file", "ids.csv"], b'"7', "ids.csv cannot be read as CSV in UTF-8"),
        (["--file", "ids.csv"], b",7\n", "an id is empty"),
        ([""], b"", "an id is empty"),
        (["7", "--pipeline", "films"], b"", "no pipeline 'films'. Declared: shop"),
    ],
)
def test_bad_input_is_refused(
    first_shop: Shop, arguments: list[str], content: bytes, message: str
) -> None:
    (first_shop.project.root / "ids.csv").write_bytes(content)
    result = first_shop.forget(*arguments, "--yes")
    assert message in result.output
    assert result.exit_code in (1, 2, 3)
    assert not (first_shop.project.storage / "shop/records/suppressed_users.json").exists()


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
    record = first_shop.project.storage / "shop/records/suppressed_users.json"
    assert len(json.loads(record.read_text())["users"]) == 2


def test_a_living_run_is_waited_for_by_whoever_forgets(first_shop: Shop) -> None:
    with dg.DagsterInstance.local_temp(str(first_shop.home)) as instance:
        run = instance.create_run_for_job(
            dg.JobDefinition(name="shop_refresh", graph_def=dg.GraphDefinition(name="empty"))
        )
        instance.report_run_canceling(run)
        result = first_shop.forget("7", "--yes")
        assert result.exit_code == 1
        assert f"run {run.run_id} of shop_refresh is under way" in result.output
        assert "7" in set(table(first_shop.project, "shop")["user_id"])
        instance.report_run_canceled(run)
        assert first_shop.forget("7", "--yes").exit_code == 0
