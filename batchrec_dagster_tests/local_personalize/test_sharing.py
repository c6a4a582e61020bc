"""One home, used by many at once: clients, threads, processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster_tests.guard.servers.personalize import Local, build_taste_rows

pytestmark = pytest.mark.slow


def test_processes_and_clients_share_a_home(local: Local) -> None:
    group, dataset = local.import_rows(build_taste_rows())
    local.create_solution(group)
    code = textwrap.dedent("""
        import pathlib, sys, time
        from batchrec_dagster.local_personalize.api.client import embedded_client
        from batchrec_dagster.storage.object_store import ObjectStore
        root, me, dataset = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        client = embedded_client(root / "home", ObjectStore(folders={"data": root / "storage"}))
        for number in range(5):
            while True:
                try:
                    arn = client.create_dataset_import_job(
                        jobName=f"{me}-{number}", datasetArn=dataset, importMode="INCREMENTAL",
                        dataSource={"dataLocation": "s3://data/interactions.csv"},
                    )["datasetImportJobArn"]
                    break
                except client.exceptions.LimitExceededException:
                    time.sleep(0.01)
            while True:
                job = client.describe_dataset_import_job(datasetImportJobArn=arn)
                status = job["datasetImportJob"]["status"]
                if status not in ("CREATE PENDING", "CREATE IN_PROGRESS"):
                    assert status == "ACTIVE", job
                    break
                time.sleep(0.01)
    """)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(local.root), name, dataset])
        for name in ("one", "two")
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    jobs = local.client.list_dataset_import_jobs(datasetArn=dataset)["datasetImportJobs"]
    assert len(jobs) == 11
    assert {job["status"] for job in jobs} == {"ACTIVE"}
    assert len(list((local.root / "home" / "datasets").iterdir())) == 11  # each took effect once


def test_clients_and_threads_of_one_process_share_a_home(local: Local) -> None:
    def make(number: int) -> list[str]:
        client = local.open_client()
        return [
            client.create_schema(
                name=f"schema-{number}-{n}", schema=build_interactions_schema(event_type=False)
            )["schemaArn"]
            for n in range(5)
        ]

    with ThreadPoolExecutor(8) as pool:
        created_arns = [arn for arns in pool.map(make, range(8)) for arn in arns]
    schemas = local.client.list_schemas(maxResults=100)["schemas"]
    assert sorted(schema["schemaArn"] for schema in schemas) == sorted(created_arns)


def test_nothing_fails_when_many_processes_ask_at_once(local: Local) -> None:
    code = textwrap.dedent("""
        import logging, pathlib, sys
        from batchrec_dagster.personalize.schemas import build_interactions_schema
        from batchrec_dagster.local_personalize.api.client import embedded_client
        from batchrec_dagster.storage.object_store import ObjectStore
        logging.basicConfig(level=logging.ERROR)
        root, me = pathlib.Path(sys.argv[1]), sys.argv[2]
        store, schema = ObjectStore(), build_interactions_schema(event_type=False)
        made = 0
        for turn in range(2):
            client = embedded_client(root / "home", store)
            for number in range(20):
                arn = client.create_schema(name=f"{me}-{turn}-{number}", schema=schema)["schemaArn"]
                client.describe_schema(schemaArn=arn)
                client.list_schemas(maxResults=10)
                if number % 2:
                    client.delete_schema(schemaArn=arn)
            try:
                client.create_dataset_group(name=f"shared-{turn}")
                made += 1
            except client.exceptions.ResourceAlreadyExistsException:
                pass
        print(made)
    """)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(local.root), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two", "three", "four")
    ]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert [errors for _, errors in answers] == [""] * 4
    assert sum(int(output) for output, _ in answers) == 2  # who came second was told so
    schemas = [
        schema["name"]
        for page in local.client.get_paginator("list_schemas").paginate()
        for schema in page["schemas"]
    ]
    assert len(schemas) == len(set(schemas)) == 4 * 2 * 10
    # Another process does it: one that opens the file itself drops the locks of its client.
    check = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]))"
    catalog = str(local.root / "home" / "catalog.sqlite")
    command = [sys.executable, "-c", check, catalog, "PRAGMA integrity_check"]
    assert subprocess.check_output(command, text=True) == "('ok',)\n"


def test_an_ending_process_does_not_disturb_the_others(local: Local) -> None:
    code = textwrap.dedent("""
        import pathlib, sys
        from batchrec_dagster.local_personalize.api.client import embedded_client
        from batchrec_dagster.storage.object_store import ObjectStore
        client = embedded_client(pathlib.Path(sys.argv[1]) / "home", ObjectStore())
        client.create_dataset_group(name=sys.argv[2])
    """)
    for number in range(2):
        local.create_group(f"mine-{number}")
        name = f"theirs-{number}"
        subprocess.run([sys.executable, "-c", code, str(local.root), name], check=True)
        names = [group["name"] for group in local.client.list_dataset_groups()["datasetGroups"]]
        assert names == [f"mine-{number}", name]
        for group in names:
            arn = f"arn:aws:personalize:us-east-1:000000000000:dataset-group/{group}"
            local.wait_until_active(arn)
            local.client.delete_dataset_group(datasetGroupArn=arn)
            local.wait_until_gone(arn)


def test_jobs_of_the_same_name_in_two_regions_are_independent(local: Local) -> None:
    home_region = Local(local.root)
    other_region = Local(local.root)
    other_region.client = local.open_client(region="eu-west-1")
    for place in (home_region, other_region):
        group, _ = place.import_rows(build_taste_rows())
        place.wait_until_active(
            place.create_version(place.create_solution(group, "aws-user-personalization"))
        )
    for place in (home_region, other_region):
        (solution,) = place.client.list_solutions()["solutions"]
        place.wait_until_active(
            place.create_version(solution["solutionArn"])
        )  # what was imported is there still
