"""`batchrec forget`: who is erased is in no byte that batchrec keeps, in no sink, and stays out.

The people to erase have ids that nothing else contains, so that a search of all bytes finds them.
"""

from __future__ import annotations

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
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    module_project,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.crashes import Crash, crash_at, kill_when
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.oracles.marks import MARK, find_marks, read_files
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.guard.seams.publishing import Store
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server

pytestmark = pytest.mark.slow

PLAIN, ODD = f"{MARK}-forget-me", f'{MARK};o"dd, é=1'
LISTS = "shop/curated/recommendations/recommendations.parquet"
USERS = {
    "source": "users.csv",
    "columns": {"user": "id", "categories": {"CONSENT": "consent"}, "numbers": {"AGE": "age"}},
    "on_bad_rows": "skip",
}
# How many of an erasure's writes it ends at, in a run of the tests for a commit.
CRASHES = 3
NOBODY_IS_FOUND = "Not found anywhere."


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


def read_store(store: Store) -> Iterator[tuple[str, bytes]]:
    for key in store.list(""):
        yield key, store.get(key)


@dataclass(frozen=True)
class Shop:
    """A project with its Dagster home, in which commands are typed."""

    project: Project
    monkeypatch: pytest.MonkeyPatch

    @property
    def home(self) -> Path:
        return self.project.root / ".batchrec" / "dagster"

    @property
    def files(self) -> Iterator[tuple[str, bytes]]:
        """All that batchrec and Dagster keep."""
        return read_files(self.project.root / ".batchrec")

    def enter(self) -> None:
        """Let commands of this process find it."""
        self.monkeypatch.chdir(self.project.root)
        self.home.mkdir(parents=True, exist_ok=True)
        variables = {
            "BATCHREC_HOME": str(self.project.root / ".batchrec"),
            "BATCHREC_POLL_SECONDS": "0.02",
            "DAGSTER_HOME": str(self.home),
            **self.project.environment,
        }
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def declare(self, **attributes: Any) -> None:
        blocks = declaration("shop", "ratings.csv", **attributes)
        blocks["ratings"]["on_bad_rows"] = "skip"
        self.project.declare(blocks)

    def run(self, *, report: bool = False) -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.local_temp(str(self.home)) as instance:
            return refresh(self.project, "shop", instance, report=report)

    def forget(self, *arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(main, ["forget", *arguments], input=answer)

    def is_found(self, *users: str) -> bool:
        """Whether the command finds any of them."""
        shown = self.forget(*users, "--dry-run")
        assert shown.exit_code == 0, shown.output
        return NOBODY_IS_FOUND not in shown.output


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with the people to erase, in which nothing has run."""
    project = module_project(tmp_path)
    write_source(project.root / "ratings.csv", nights=1)
    write_users(project.root / "users.csv")
    shop = Shop(project, monkeypatch)
    shop.enter()
    return shop


@pytest.fixture
def first_shop(first_run: FirstRun, project: Project, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The pipeline of the session's first run, with its Personalize and storage."""
    first_run.copy_to(project)
    shop = Shop(project, monkeypatch)
    shop.enter()
    return shop


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


def without_people(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(~pl.col("user_id").is_in([PLAIN, ODD]))


def test_who_is_erased_is_in_no_byte_and_no_sink_and_stays_out(
    shop: Shop,
    postgres: PostgresServer,
    postgres_url: str,
    dynamodb: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proof on all places at once, which takes three refreshes."""
    monkeypatch.setenv("SHOP_DATABASE_URL", postgres_url)
    shop.declare(
        sinks={
            "postgres": {"url_env": "SHOP_DATABASE_URL"},
            "dynamodb": {"table": "shop-lists"},
            "export": {"path": "mail/lists.csv"},
        },
        # DynamoDB's answers take moto seconds for longer lists.
        recommendations={"num_results": 5},
        segments={"items": ["1", "3"]},
        experiment={"name": "first", "control": "popular", "control_share": 0.3},
        users=USERS,
    )
    for nights in (1, 2):
        write_source(shop.project.root / "ratings.csv", nights=nights)
        assert shop.run(report=nights == 2).success
    storage = shop.project.storage / "shop"
    (older_file,) = (storage / "curated/history/recommendations").iterdir()
    segments_file = storage / "curated/user_segments/user_segments.parquet"
    (older_segments,) = (storage / "curated/history/user_segments").iterdir()
    assert MARK.encode() in older_segments.read_bytes()
    lists, older, segments = (
        pl.read_parquet(file) for file in (shop.project.storage / LISTS, older_file, segments_file)
    )
    assert {PLAIN, ODD} & {*lists.get_column("user_id")}
    assert MARK in (shop.project.root / "mail/lists.csv").read_text()
    marked = find_marks(shop.files)
    assert len(marked) > 15, "the people are in few files: does the search find anything?"

    # Who looks, or does not answer yes, erases nothing.
    assert shop.is_found(PLAIN, ODD)
    assert shop.forget(PLAIN, ODD, answer="n\n").exit_code == 1
    assert find_marks(shop.files) == marked
    erased = shop.forget(PLAIN, ODD, "--yes")
    assert erased.exit_code == 0, erased.output

    assert find_marks(shop.files) == []
    kept = without_people(lists)
    rows = postgres.query("SELECT user_id, rank, item_id FROM recommendations", url=postgres_url)
    assert sorted(rows) == sorted(kept.select("user_id", "rank", "item_id").rows())
    items = dynamodb.scan(TableName="shop-lists")["Items"]
    assert MARK not in repr(items)
    assert {item["user_id"]["S"] for item in items} == {*kept.get_column("user_id")}
    exported = (shop.project.root / "mail/lists.csv").read_text()
    assert MARK not in exported
    assert len(exported.splitlines()) == 1 + kept.get_column("user_id").n_unique()
    assert table(shop.project, "shop").equals(kept)
    assert pl.read_parquet(older_file).equals(without_people(older))
    assert pl.read_parquet(segments_file).equals(without_people(segments))
    assert len([*(storage / "records/erasures").iterdir()]) == 1

    # The source still has them. The next refresh makes all that people see, without them.
    assert shop.run(report=True).success
    assert find_marks(shop.files) == []
    assert (storage / "curated/report/index.html").exists()
    users = {*kept.get_column("user_id")}
    assert {*table(shop.project, "shop").get_column("user_id")} == users
    assert not shop.is_found(PLAIN, ODD)


@nightly("a bucket takes two runs more")
def test_in_a_bucket(shop: Shop, s3: S3Server) -> None:
    root = f"s3://{s3.create_bucket()}/prefix"
    store = Store.open(root, s3.environment(OWNER))
    shop.project.environment.update({**s3.environment(OWNER), "BATCHREC_STORAGE": root})
    shop.enter()
    shop.declare(
        sinks={"export": {"format": "jsonl"}},
        solution={"recipe": "aws-user-personalization"},
        users=USERS,
        batch_users={"filter": 'USERS.CONSENT = "yes" AND USERS.AGE > 20'},
    )
    assert shop.run().success
    assert len(find_marks(read_store(store))) > 5
    result = shop.forget(PLAIN, ODD, "--yes")
    assert result.exit_code == 0, result.output
    assert find_marks(read_store(store)) == []
    assert find_marks(shop.files) == []
    lists = pl.read_parquet(store.get(LISTS))
    assert {*lists.get_column("user_id")} == {str(user) for user in range(21, 61)}
    # The next refresh reads the people again, and leaves them out.
    assert shop.run().success
    assert find_marks(read_store(store)) == []


def test_an_erasure_that_ends_at_any_write_is_continued(
    first_run: FirstRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same command, which may name the people in another order."""

    def forget_and_end(write: int) -> tuple[Shop, Crash]:
        """A shop in which an erasure ends before this write."""
        root = tmp_path / f"{write}"
        root.mkdir()
        shop = Shop(module_project(root), monkeypatch)
        first_run.copy_to(shop.project)
        shop.enter()
        with crash_at(write, shop.project.storage) as crash:
            shop.forget("7", "9", "--yes")
        return shop, crash

    lists = pl.read_parquet(first_run.lists)
    others = lists.filter(~pl.col("user_id").is_in(["7", "9"]))
    _, whole = forget_and_end(10_000)
    assert not whole.has_happened
    number = len(whole.writes)
    for write in range(0, number, repeats(1, number // CRASHES)):
        shop, crash = forget_and_end(write)
        assert crash.has_happened
        left = table(shop.project, "shop")
        assert left.equals(lists) or left.equals(others)
        result = shop.forget("9", "7", "--yes")
        assert result.exit_code == 0, result.output
        assert table(shop.project, "shop").equals(others)
        assert not shop.is_found("7", "9")


def test_an_erasure_whose_process_is_killed_is_continued_by_another(first_shop: Shop) -> None:
    project = first_shop.project
    project.environment["BATCHREC_HOME"] = str(project.root / ".batchrec")
    interactions = project.storage / "shop/transformed/interactions/interactions.csv"

    def is_erased() -> bool:
        return not interactions.exists() or b"\n7," not in interactions.read_bytes()

    assert not is_erased()
    kill_when(is_erased, project, ["batchrec", "forget", "7", "--yes"])
    assert first_shop.is_found("7")
    result = first_shop.forget("7", "--yes")
    assert result.exit_code == 0, result.output
    assert not first_shop.is_found("7")
    assert "7" not in {*table(project, "shop").get_column("user_id")}


def test_nothing_is_erased_while_a_run_is_under_way(first_shop: Shop) -> None:
    with dg.DagsterInstance.local_temp(str(first_shop.home)) as instance:
        run = instance.create_run_for_job(
            dg.JobDefinition(name="shop_refresh", graph_def=dg.GraphDefinition(name="empty"))
        )
        instance.report_run_canceling(run)
        result = first_shop.forget("7", "--yes")
        assert result.exit_code == 1
        assert run.run_id in result.output
        assert "7" in {*table(first_shop.project, "shop").get_column("user_id")}
        instance.report_run_canceled(run)
        assert first_shop.forget("7", "--yes").exit_code == 0
    assert "7" not in {*table(first_shop.project, "shop").get_column("user_id")}


def test_until_the_next_refresh_lists_are_shown_and_rolled_back(first_shop: Shop) -> None:
    """What people were erased from is made again by the refresh; the lists are there before."""
    write_ratings(first_shop.project.root / "ratings.csv", seed=5)
    assert first_shop.run().success
    assert first_shop.forget("7", "--yes").exit_code == 0
    for command in (["show"], ["show", "9"], ["diff"], ["list"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    with (
        dg.DagsterInstance.local_temp(str(first_shop.home)) as instance,
        definitions(first_shop.project) as defs,
    ):
        assert defs.resolve_job_def("shop_rollback").execute_in_process(instance=instance).success
    users = {*table(first_shop.project, "shop").get_column("user_id")}
    assert users == {str(user) for user in range(1, 61)} - {"7"}
    assert first_shop.run().success


def test_a_sink_that_cannot_be_reached_is_named_after_all_else_is_erased(
    first_shop: Shop, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", postgres_url)
    first_shop.declare(sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}})
    assert first_shop.run().success
    monkeypatch.delenv("SHOP_DATABASE_URL")
    for _ in range(2):
        result = first_shop.forget("7", "--yes")
        assert result.exit_code == 1
        assert "SHOP_DATABASE_URL is not set" in " ".join(result.output.split())
        assert "7" not in {*table(first_shop.project, "shop").get_column("user_id")}
    # The message says what to delete if the database is gone for good.
    (record,) = (first_shop.project.storage / "shop/records/sinks").iterdir()
    assert str(record) in "".join(result.output.split())
    record.unlink()
    assert first_shop.forget("7", "--yes").exit_code == 0


def test_a_kept_edition_that_is_damaged_is_deleted_and_a_live_one_is_named(
    first_shop: Shop,
) -> None:
    lists = first_shop.project.storage / LISTS
    history = lists.parents[1] / "history/recommendations"
    history.mkdir(parents=True)
    (history / "000000-v0.parquet").write_bytes(b"7")
    assert first_shop.forget("7", "--yes").exit_code == 0
    assert not [*history.iterdir()]
    lists.write_bytes(lists.read_bytes()[:500])
    result = first_shop.forget("9", "--yes")
    assert result.exit_code == 1
    assert str(lists) in result.output
    assert "delete it, and run the refresh" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("content", "erased"),
    [
        (b"\xef\xbb\xbfuser_id,mail\n7,a@example.org\n\n9,\n7,\n", {"7", "9"}),
        (b"userId\r\n7\r\n", {"7"}),
        ('"a ""b"", c"\n=7\nü\n'.encode(), set()),
    ],
)
def test_the_ids_of_a_file_are_its_first_column(
    first_shop: Shop, content: bytes, erased: set[str]
) -> None:
    users = {*table(first_shop.project, "shop").get_column("user_id")}
    (first_shop.project.root / "ids.csv").write_bytes(content)
    result = first_shop.forget("--file", "ids.csv", "--yes")
    assert result.exit_code == 0, result.output
    assert {*table(first_shop.project, "shop").get_column("user_id")} == users - erased


BAD_ARGUMENTS: list[tuple[list[str], bytes]] = [
    ([], b""),
    (["--file", "ids.csv"], b""),
    (["--file", "ids.csv"], b"user_id\n\n"),
    (["--file", "ids.csv"], b"\xff\xfe"),
    (["--file", "ids.csv"], b'"7'),
    (["--file", "ids.csv"], b",7\n"),
    ([""], b""),
    (["7", "--pipeline", "films"], b""),
]


def test_people_who_are_not_named_well_are_not_erased(first_shop: Shop) -> None:
    before = [*read_files(first_shop.project.storage)]
    for arguments, content in BAD_ARGUMENTS:
        (first_shop.project.root / "ids.csv").write_bytes(content)
        result = first_shop.forget(*arguments, "--yes")
        assert result.exit_code in (1, 2, 3), arguments
        assert [*read_files(first_shop.project.storage)] == before, arguments
