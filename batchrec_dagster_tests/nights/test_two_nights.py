"""Two nights of a deployed project, started by the commands of its compose.yaml.

The first night begins when new data arrive, the second at the schedule's time. Between the two
nights the daemon is killed.

The webserver, the daemon and the code location use PostgreSQL, the storage is in S3, and
Personalize is reached over HTTP. Nothing is mocked.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
import yaml
from botocore.exceptions import BotoCoreError
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.night import TABLE, count_personalize_jobs, made_once
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer, postgres_server
from batchrec_dagster_tests.guard.servers.processes import Started, free_ports, started
from batchrec_dagster_tests.guard.servers.s3 import S3Server, s3_server

pytestmark = [pytest.mark.slow, nightly("all services of a server for two nights")]

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

KEYS = {
    "BATCHREC_LOCAL_PERSONALIZE_ACCESS_KEY_ID": "owner",
    "BATCHREC_LOCAL_PERSONALIZE_SECRET_ACCESS_KEY": "owner-secret",
}
# Variables that .env may set, and that are not set here.
UNSET = re.compile(r"\$\{\w+:-(.*?)\}")
A_NIGHT = 900  # seconds; on a busy machine


class Server:
    """A machine that runs the services of compose.yaml, each on a separate port."""

    def __init__(self, project: Project, database: PostgresServer, ours: Mapping[str, str]) -> None:
        self.project = project
        self.services = yaml.safe_load((project.root / "compose.yaml").read_text())["services"]
        self.ours = ours  # the variables in .env
        self.password = re.findall("POSTGRES_PASSWORD=(.+)", (project.root / ".env").read_text())[0]
        self.healthy_services: set[str] = set()  # services with a successful health check
        grpc, web = free_ports(2)
        self.ports = {"code_location": grpc, "webserver": web}
        self.instead = {
            "DAGSTER_POSTGRES_HOST": "127.0.0.1",
            "DAGSTER_POSTGRES_PORT": str(database.port),
            "DAGSTER_POSTGRES_PASSWORD": self.password,
            "DAGSTER_CODE_LOCATION_HOST": "127.0.0.1",
            "DAGSTER_CODE_LOCATION_PORT": str(grpc),
            "DAGSTER_GRPC_HOST": "127.0.0.1",
            "DAGSTER_GRPC_PORT": str(grpc),
            "TMPDIR": str(project.root / "tmp"),
        }
        database.query(f"CREATE ROLE dagster LOGIN PASSWORD '{self.password}'")
        database.query("CREATE DATABASE dagster OWNER dagster")
        for folder in ("tmp", "dagster"):
            (project.root / folder).mkdir()
        shutil.copy(project.root / "deploy/dagster.yaml", project.root / "dagster")
        shutil.copy(project.root / "deploy/workspace.yaml", project.root)

    def environment(self, service: str) -> dict[str, str]:
        """Return the service's environment variables, with this machine's addresses."""
        declared_service = self.services[service]
        variables = {
            name: self.instead.get(name, UNSET.sub(r"\1", value))
            for name, value in declared_service["environment"].items()
        }
        return {
            **{name: value for name, value in os.environ.items() if not _ours(name)},
            **variables,
            **(self.ours if "env_file" in declared_service else {}),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DAGSTER_HOME": str(self.project.root / "dagster"),
            "PYTHONPATH": str(self.project.root),
        }

    def localize(self, word: str) -> str:
        """Return part of a command with this machine's address and the webserver's port."""
        port = str(self.ports["webserver"])
        return word.replace("0.0.0.0", "127.0.0.1").replace("127.0.0.1:3000", f"127.0.0.1:{port}")

    @contextmanager
    def service(self, name: str) -> Iterator[Started]:
        """Run the service until the end of the block, after its health check has succeeded."""
        declared_service = self.services[name]
        root, environment = self.project.root, self.environment(name)
        kind, *check = [self.localize(word) for word in declared_service["healthcheck"]["test"]]
        command = [self.localize(word) for word in declared_service["command"]]
        if name == "webserver":
            command += ["--port", str(self.ports[name])]
        if kind == "CMD-SHELL":
            check = ["sh", "-c", check[0].replace("$$", "$")]

        def ready() -> bool | None:
            """Return whether the service is healthy; the cheap test of its port comes first."""
            if name == "daemon":
                return "Instance is configured with" in log.read_text() or None
            with socket.socket() as looking:
                return looking.connect_ex(("127.0.0.1", self.ports[name])) == 0 or None

        def healthy() -> bool | None:
            process = subprocess.run(
                check, cwd=root, env=environment, capture_output=True, check=False
            )
            return True if process.returncode == 0 else None

        log = root / f"{name}.log"
        with started(command, root, environment, log) as process:
            process.wait_for(ready, f"start of {name}", timeout=300, every=1)
            # The check cannot tell a service that was killed and started again from the first one.
            if name not in self.healthy_services:
                process.wait_for(healthy, f"health of {name}", timeout=300, every=5)
                self.healthy_services.add(name)
            yield process

    # The switches of the web page send the same mutations.

    def start_schedule(self, name: str) -> None:
        self._change(
            "mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector)",
            selector=_selector("schedule", name),
        )

    def stop_schedule(self, name: str) -> None:
        answer = self._ask(
            "query($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector)"
            " { ... on Schedule { scheduleState { id } } } }",
            selector=_selector("schedule", name),
        )
        state = answer["scheduleOrError"]["scheduleState"]["id"]
        self._change("mutation($state: String!) { stopRunningSchedule(id: $state)", state=state)

    def stop_sensor(self, name: str) -> None:
        answer = self._ask(
            "query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector)"
            " { ... on Sensor { sensorState { id } } } }",
            selector=_selector("sensor", name),
        )
        state = answer["sensorOrError"]["sensorState"]["id"]
        self._change("mutation($state: String!) { stopSensor(id: $state)", state=state)

    def _change(self, mutation: str, **variables: object) -> None:
        """Send a mutation, without the fields of its answer, and require success."""
        data = self._ask(f"{mutation} {{ __typename }} }}", **variables)
        (result,) = data.values()
        assert not re.search("Error|Invalid", result["__typename"]), result

    def _ask(self, query: str, **variables: object) -> dict[str, Any]:
        """Return the data of the webserver's answer to a GraphQL query."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['webserver']}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            content: dict[str, Any] = json.load(response)
        assert "errors" not in content, content
        data: dict[str, Any] = content["data"]
        return data

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Yield Dagster's instance, which keeps its history in PostgreSQL."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment("webserver").items():
                if name.startswith("DAGSTER_"):
                    patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(self.project.root / "dagster")) as instance:
                yield instance


def _selector(kind: str, name: str) -> dict[str, str]:
    """Return the GraphQL selector of a job, schedule or sensor."""
    return {
        "repositoryLocationName": "nights",
        "repositoryName": "__repository__",
        f"{kind}Name": name,
    }


def _ours(name: str) -> bool:
    return name.startswith(("AWS_", "BATCHREC_", "DAGSTER_"))


@contextmanager
def local_personalize(root: Path, s3: S3Server) -> Iterator[tuple[str, PersonalizeClient]]:
    """Yield the address and a client of a local Personalize that requires signed requests."""
    (port,) = free_ports(1)
    command = [
        *(str(Path(sys.executable).parent / "batchrec"), "local-personalize", f"--port={port}"),
        *(f"--home={root / 'personalize'}", f"--s3-endpoint={s3.endpoint}"),
    ]
    url = f"http://127.0.0.1:{port}"
    client: PersonalizeClient = s3.session().client("personalize", endpoint_url=url)
    environment = {name: value for name, value in os.environ.items() if not _ours(name)}
    environment |= {**s3.environment(), **KEYS}

    def answers() -> bool | None:
        try:
            client.list_dataset_groups()
        except BotoCoreError:
            return None
        return True

    with started(command, root, environment, root / "personalize.log") as process:
        process.wait_for(answers, "answer of the local Personalize", timeout=300)
        yield url, client


def test_two_nights_in_a_row_and_teardown_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    made = CliRunner().invoke(main, ["init", str(tmp_path / "nights")])
    assert made.exit_code == 0, made.output
    project = Project(tmp_path / "nights")
    with ExitStack() as services:
        s3 = services.enter_context(s3_server(tmp_path / "s3"))
        database = services.enter_context(postgres_server())
        url, personalize = services.enter_context(local_personalize(tmp_path, s3))
        bucket = s3.create_bucket()
        shop = database.create_database("shop")
        project.declare(
            declaration(
                "shop",
                f"s3://{bucket}/orders/*.csv",
                on_new_files={"enabled": True, "every_seconds": 5},
                # The schedule is switched on in the second night.
                schedule={"cron": "* * * * *"},
                sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}},
            )
        )
        ours = {
            **s3.environment(),
            "BATCHREC_STORAGE": f"s3://{bucket}/lists",
            "BATCHREC_PERSONALIZE": url,
            "BATCHREC_BUSY_SECONDS": "1",
            "SHOP_DATABASE_URL": shop,
        }
        server = Server(project, database, ours)
        for name in ("code_location", "webserver"):
            services.enter_context(server.service(name))
        upload(s3, bucket, tmp_path, night=1)
        daemon = services.enter_context(server.service("daemon"))

        def wait_for(job: str, *, ended: bool = True, **tags: str) -> None:
            """Wait until all runs of the job have succeeded or, without `ended`, one runs."""
            of_job = dg.RunsFilter(
                job_name=job, tags={f"dagster/{name}": value for name, value in tags.items()}
            )
            with server.instance() as instance:

                def runs() -> bool | None:
                    runs_of_job = instance.get_runs(of_job)
                    finished_runs = [run for run in runs_of_job if run.is_finished]
                    assert all(run.is_success for run in finished_runs), log_of(
                        instance, finished_runs
                    )
                    if ended:
                        return True if finished_runs and finished_runs == runs_of_job else None
                    has_started = any(
                        run.status == dg.DagsterRunStatus.STARTED or run.is_finished
                        for run in runs_of_job
                    )
                    return has_started or None

                daemon.wait_for(runs, f"{job} of {tags}", timeout=A_NIGHT, every=1)

        lists = []
        for night in (1, 2):
            if night == 1:
                wait_for("shop_refresh", sensor_name="shop_new_files")
                daemon.kill()
                daemon = services.enter_context(server.service("daemon"))
                wait_until_said(daemon, "nothing is new since a refresh was requested")
            else:
                # A tick that is under way writes the whole state of its sensor, which may undo the
                # stop: Dagster reads the state and writes it in two steps.
                daemon.kill()
                server.stop_sensor("shop_new_files")
                upload(s3, bucket, tmp_path, night)
                server.start_schedule("shop_schedule")
                daemon = services.enter_context(server.service("daemon"))
                wait_for("shop_refresh", ended=False, schedule_name="shop_schedule")
                # At its end, a tick would write that the schedule still runs, as with the sensor.
                daemon.kill()
                server.stop_schedule("shop_schedule")
                daemon = services.enter_context(server.service("daemon"))
                wait_for("shop_refresh", schedule_name="shop_schedule")
            published_bytes = s3.store().get(f"s3://{bucket}/lists/{TABLE}")
            lists.append(pl.read_parquet(io.BytesIO(published_bytes)))
            rows = database.query(
                "SELECT user_id, rank, item_id FROM recommendations ORDER BY user_id, rank",
                url=shop,
            )
            table = lists[-1].sort("user_id", "rank")
            assert rows == table.select("user_id", "rank", "item_id").rows()
        first, second = (table.get_column("user_id").n_unique() for table in lists)
        assert (first, second) == (60, 90)
        assert count_personalize_jobs(personalize) == made_once(2)
        with server.instance() as instance:
            tags = {"dagster/sensor_name": "shop_new_files"}
            assert instance.get_runs_count(dg.RunsFilter(tags=tags)) == 1

        # docs/aws.md runs the same command in the container.
        teardown = "from batchrec_dagster.cli import main; main()"
        process = subprocess.run(
            [sys.executable, "-c", teardown, "teardown", "shop", "--storage", "--yes"],
            cwd=project.root,
            env=server.environment("code_location"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        resources_left = [
            *personalize.list_dataset_groups()["datasetGroups"],
            *personalize.list_schemas()["schemas"],
            *personalize.list_solutions()["solutions"],
        ]
        assert not resources_left
        assert not [*s3.store().list(f"s3://{bucket}/lists/shop/")]
        assert len([*s3.store().list(f"s3://{bucket}/orders/")]) == 2
        no_secret_is_shown(project, server)


def wait_until_said(service: Started, words: str) -> None:
    """Wait until the service's log has these words."""
    service.wait_for(lambda: words in service.log.read_text() or None, words, timeout=300)


def upload(s3: S3Server, bucket: str, folder: Path, night: int) -> None:
    """Upload the ratings of a night; in the second night more people have rated."""
    file = write_ratings(folder / f"{night}.csv", users=30 + 30 * night, seed=night)
    s3.store().put(f"s3://{bucket}/orders/{night}.csv", file)


def log_of(instance: dg.DagsterInstance, runs: list[dg.DagsterRun]) -> str:
    """Return the errors of failed runs."""
    return "\n".join(
        record.event_log_entry.message or f"{record.event_log_entry.dagster_event}"
        for run in runs
        if not run.is_success
        for record in instance.get_records_for_run(run.run_id).records
    )


def no_secret_is_shown(project: Project, server: Server) -> None:
    """Require that no secret is in the services' logs or in Dagster's database."""
    secrets = {
        server.password,
        server.ours["AWS_SECRET_ACCESS_KEY"],
        server.ours["SHOP_DATABASE_URL"],
    }
    texts = [file.read_text(errors="replace") for file in project.root.glob("*.log")]
    texts += [
        file.read_text(errors="replace")
        for file in (project.root / "dagster").rglob("*")
        if file.is_file()
    ]
    with server.instance() as instance:
        for run in instance.get_runs():
            texts.append(str(run.run_config))
            texts += [
                str(record.event_log_entry)
                for record in instance.get_records_for_run(run.run_id).records
            ]
    for secret in secrets:
        assert not [text for text in texts if re.search(re.escape(secret), text)]
