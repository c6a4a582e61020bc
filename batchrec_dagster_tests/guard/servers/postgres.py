"""A real PostgreSQL server on this machine that requires passwords."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from batchrec_dagster_tests.guard.servers.processes import Started, free_ports, started

OWNER = "owner"
PASSWORD = "owner-secret"
DEBIAN = Path("/usr/lib/postgresql")


@dataclass
class PostgresServer:
    """A server on 127.0.0.1 with the superuser OWNER.

    fsync: whether the server's data survive a power cut.
    running: the started processes of the server, the latest last.
    """

    port: int
    fsync: bool = False
    running: list[Started] = field(default_factory=list)

    def url(self, database: str = "postgres", user: str = OWNER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def query(
        self, statement: str, parameters: Sequence[object] = (), *, url: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement in a separate transaction, and return its rows, if it has any."""
        with closing(psycopg2.connect(url or self.url())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """Create an empty database, and return its URL."""
        self.query(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        process = self.running[-1].process
        process.send_signal(signal.SIGQUIT)
        process.wait()


@contextmanager
def postgres_server(*, fsync: bool = False) -> Iterator[PostgresServer]:
    """Start a new server in a new folder, or skip the test if PostgreSQL is not installed."""
    with postgres_folder() as folder:
        server = PostgresServer(free_ports(1)[0], fsync=fsync)
        with serving(server, folder):
            yield server


@contextmanager
def postgres_folder() -> Iterator[Path]:
    """Create a database cluster, and yield its folder, which is deleted in the end."""
    # PostgreSQL refuses to run as root, and other users may not read pytest's folder. So the data
    # are in a separate folder.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as outer:
        folder = Path(outer)
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            user = _find_unprivileged_user()
            for path in (folder, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        result = subprocess.run(
            [
                *(*_run_as_user(), str(_find_program("initdb")), f"--pgdata={folder / 'data'}"),
                *(f"--username={OWNER}", f"--pwfile={password}", "--auth=scram-sha-256"),
                *("--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        yield folder


@contextmanager
def serving(server: PostgresServer, folder: Path) -> Iterator[None]:
    """Run the server on the database cluster in the folder, during the block."""
    command = [
        *(*_run_as_user(), str(_find_program("postgres")), "-D", str(folder / "data")),
        *("-p", str(server.port), "-c", "listen_addresses=127.0.0.1"),
        *("-c", f"unix_socket_directories={folder}"),
        *("-c", f"fsync={'on' if server.fsync else 'off'}"),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}

    def is_ready() -> bool | None:
        try:
            server.query("SELECT 1")
        except psycopg2.OperationalError:
            return None
        return True

    with started(command, folder, environment, folder / "log") as process:
        server.running.append(process)
        try:
            process.wait_for(is_ready, "answer of PostgreSQL", timeout=300)
            yield
        finally:
            # With another signal, PostgreSQL would wait for its connections to close or for a
            # checkpoint. Committed data survive this signal too.
            process.process.send_signal(signal.SIGQUIT)


def _find_program(name: str) -> Path:
    """Find a program of PostgreSQL: Debian's newest version, or the program on the PATH.

    Skip the test if PostgreSQL is not installed.
    """
    installed_folders = sorted(DEBIAN.glob("*/bin"), key=lambda folder: float(folder.parent.name))
    path = os.pathsep.join([*map(str, reversed(installed_folders)), os.environ.get("PATH", "")])
    program_path = shutil.which(name, path=path)
    if program_path is None:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    return Path(program_path)


def _run_as_user() -> list[str]:
    """Return the beginning of a command line that runs the rest as another user than root.

    The command runs in the same process. Return an empty list if this process is not root's. Skip
    the test if this machine cannot change the user.
    """
    if os.geteuid() != 0:
        return []
    if sys.platform != "linux" or shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL refuses root: run the tests as another user")
    user = _find_unprivileged_user()
    ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}")
    return ["setpriv", *ids, "--clear-groups", "--"]


def _find_unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Yield a server for all tests of a pytest-xdist worker."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """Return the URL of a new database."""
    return postgres.create_database(f"test_{uuid.uuid4().hex}")
