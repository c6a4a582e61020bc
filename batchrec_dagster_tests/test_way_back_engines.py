"""`preparation.engine` makes the lists too: the same table, whichever engine makes it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_pipes import PipesContext
from moto.glue.models import FakeJobRun
from pyspark.sql import SparkSession

from batchrec_dagster.object_store import ObjectStore, split_uri
from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.spark.task import SourceFile
from batchrec_dagster.preparation.spark.way_back import write_lists
from batchrec_dagster.preparation.spark.way_back_task import WayBack
from batchrec_dagster.published_table import PublishedTable
from batchrec_dagster.table_files import told_by, told_in
from batchrec_dagster.users_of_interactions import UsersOfInteractions
from batchrec_dagster_tests.aws_jobs import ROLE, glue, say
from batchrec_dagster_tests.s3_server import s3_server
from batchrec_dagster_tests.spark_support import quick_session
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    last_times,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)

LOG = logging.getLogger(__name__)
# To compile what runs over a few rows takes a hundred times as long as to run it.
FOR_FEW_ROWS = (
    "--conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN"
    " pyspark-shell"
)
TABLE = "shop/curated/recommendations/recommendations.parquet"
BY_RUN = ("engine", "seconds", "outcome", "cost_usd_on_aws", "inference_seconds")


def declare(project: Project, **attributes: Any) -> None:
    items = project.root / "items.csv"
    items.write_text("movieId,title\n" + "".join(f"{n},Film {n}\n" for n in range(1, 60)))
    declared = {"source": str(items), "columns": {"item": "movieId", "title": "title"}}
    ratings = project.root / "ratings.csv"
    project.declare(declaration("shop", ratings, items=declared, **attributes))


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The asset's metadata, but for what is the run's own."""
    found = metadata(result, "recommendations")
    return {key: value for key, value in found.items() if key not in BY_RUN}


def test_the_whole_pipeline_on_a_spark_of_this_machine(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", FOR_FEW_ROWS)
    write_ratings(project.root / "ratings.csv")
    declare(project)
    local = refresh(project, "shop", instance)
    assert local.success
    lists, about = table(project, "shop"), told_by(project.storage / TABLE)
    (project.storage / TABLE).unlink()
    declare(project, preparation={"engine": "spark", "memory": "1g"})
    spark = refresh(project, "shop", instance)
    assert spark.success, why(spark)
    assert metadata(spark, "recommendations")["engine"] == "spark"
    # What it was asked for, and so paid for, is the same.
    assert metadata(spark, "recommendations")["outcome"] == "unchanged: not inferred again"
    made = table(project, "shop")
    assert made.schema == lists.schema
    assert made.rows() == lists.rows()
    assert made.get_column("title").null_count() > 0
    assert told(spark) == told(local)
    mine = ("run_id", "made_at")
    published = told_by(project.storage / TABLE)
    assert {**published, **dict.fromkeys(mine)} == {**about, **dict.fromkeys(mine)}
    declare(project, preparation={"engine": "glue", "job_name": "lists"})
    assert "BATCHREC_STORAGE=s3://bucket/prefix" in why(materialize(project, instance))


def test_glue_makes_the_lists_where_the_lines_are(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The job is played by a Spark of this machine, on copies. The pipeline itself reads neither
    lines nor interactions nor lists."""
    write_ratings(project.root / "ratings.csv")
    with s3_server(tmp_path_factory.mktemp("s3")) as s3, quick_session() as spark:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        root, store, client = f"s3://{s3.new_bucket()}/data", s3.store(), s3.client()
        project.environment.update(BATCHREC_STORAGE=root, AWS_ENDPOINT_URL_S3=s3.endpoint)
        declare(project)
        local = refresh(project, "shop", instance)
        assert local.success
        lists = PublishedTable(store, f"{root}/{TABLE}")
        before, frame = lists.read()
        store.delete(lists.uri)
        csv = f"{root}/shop/transformed/interactions/interactions.csv"
        give_users(store, csv, tmp_path)

        def job(run: FakeJobRun) -> None:
            if run.status in ("SUCCEEDED", "FAILED"):
                return
            run.status = "SUCCEEDED"
            copies = tmp_path / run.job_run_id
            try:
                say(client, run.arguments or {}, lambda pipes: play(pipes, spark, client, copies))
            except PreparationError:
                run.status = "FAILED"

        monkeypatch.setattr(FakeJobRun, "advance", lambda self: job(self))
        on_glue = {"engine": "glue", "job_name": "lists", "role": ROLE}
        declare(project, preparation=on_glue, publication={"max_file_gb": 1e-9})
        with glue(monkeypatch):
            read = reads(monkeypatch)
            result = materialize(project, instance)
            assert result.success, why(result)
            assert not [uri for uri in read if uri.endswith((".out", "interactions.csv"))]
            assert not [uri for uri in read if "/part-" in uri or "/history/" in uri]
            assert metadata(result, "recommendations")["AWS Glue Job Name"] == "lists"
            assert metadata(result, "recommendations")["outcome"] == "unchanged: not inferred again"
            here, there = told(local), told(result)
            assert {key for key in here if there[key] != here[key]} == {"dagster/uri", "table"}
            edition, made = lists.read()
            assert len(edition.parts) == 1
            assert made.collect().rows() == frame.collect().rows()
            facts = dict.fromkeys(("run_id", "made_at"))
            assert {**edition.about, **facts} == {**before.about, **facts}

            # What fits into one file is one, at the one path.
            store.delete(lists.manifest)
            declare(project, preparation=on_glue)
            small = materialize(project, instance)
            assert small.success, why(small)
            edition, made = lists.read()
            assert edition.uri == lists.uri
            assert made.collect().rows() == frame.collect().rows()
            assert {**told_in(store, lists.uri), **facts} == {**before.about, **facts}

            # What its checks block is not published, and nothing stays of it.
            (output,) = [f.uri for f in store.list(f"{root}/shop/") if f.uri.endswith(".out")]
            store.put(output, store.get(output).partition(b"\n")[2])
            missing = materialize(project, instance)
            assert why(missing).startswith("every_user_has_a_line: 59 of 60 users have a line")
            store.put(output, b"{")
            broken = materialize(project, instance)
            assert why(broken).startswith(f"{output}, line 1: not a line of a batch inference")
            assert lists.current() == edition
            assert not store.list(f"{root}/shop/work/")


def give_users(store: ObjectStore, csv: str, folder: Path) -> None:
    """The users beside the interactions, as Spark writes them."""
    store.download(csv, folder / "interactions.csv")
    last_times(folder / "interactions.csv").write_parquet(folder / "users.parquet")
    etag = store.put(csv, folder / "interactions.csv")
    store.put(UsersOfInteractions(store, csv).place(etag, "of these"), folder / "users.parquet")


def play(pipes: PipesContext, spark: SparkSession, s3: Any, folder: Path) -> None:
    """Do the task, as the job would."""
    assert pipes.get_extra("kind") == WayBack.kind
    task = WayBack.from_json(pipes.get_extra("task"))

    def copied(uri: str | None) -> str:
        bucket, key = split_uri(uri or "")
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, key, str(path))
        return f"file://{path}"

    here = replace(
        task,
        answers=[SourceFile(copied(file.uri), file.name) for file in task.answers],
        users=[SourceFile(copied(file.uri), file.name) for file in task.users],
        interactions=copied(task.interactions),
        titles=copied(task.titles),
        destination=f"file://{folder}/table",
        work=f"file://{folder}/work",
    )
    try:
        done = write_lists(spark, here, LOG)
    except PreparationError as error:
        pipes.report_custom_message({"error": str(error)})
        raise
    bucket, key = split_uri(task.destination)
    for part in (folder / "table").iterdir():
        s3.upload_file(str(part), bucket, f"{key}/{part.name}")
    pipes.report_custom_message({"done": done.to_json()})


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects that are read whole, from now on."""
    found: list[str] = []
    for name in ("get", "chunks"):
        read = getattr(ObjectStore, name)

        def noted(self: ObjectStore, uri: str, read: Any = read) -> Any:
            found.append(uri)
            return read(self, uri)

        monkeypatch.setattr(ObjectStore, name, noted)
    return found


def materialize(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """The recommendations alone."""
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", "recommendations"])],
            raise_on_error=False,
        )
