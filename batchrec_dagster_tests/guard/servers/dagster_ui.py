"""Dagster's UI on a project's pipelines."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchrec_dagster_tests.guard.builders import REPOSITORY, Project
from batchrec_dagster_tests.guard.servers.processes import free_ports, started

LOCATION = "batchrec_dagster"
# A vertical layout makes the assets on the lineage page large enough to show their state.
UPRIGHT = "localStorage.setItem('asset-graph-direction', JSON.stringify('vertical'))"
DEFINITIONS = """\
from pathlib import Path

from batchrec_dagster_tests.guard.builders import Project, definitions

with definitions(Project(Path(__file__).parent)) as defs:
    pass
"""
WORKSPACE = f"""\
load_from:
  - python_file: {{relative_path: definitions.py, location_name: {LOCATION}}}
"""


@contextmanager
def web_ui(project: Project) -> Iterator[str]:
    """Start a webserver on a `module_project` with its pipelines, and yield the server's URL."""
    (project.root / "definitions.py").write_text(DEFINITIONS)
    (project.root / "workspace.yaml").write_text(WORKSPACE)
    with ui_of(project, REPOSITORY) as address:
        yield address


@contextmanager
def ui_of(project: Project, code: Path, *, has_daemon: bool = False) -> Iterator[str]:
    """Start a webserver on the project's workspace, and yield the server's URL.

    The webserver uses the Dagster instance of the project's environment.

    code: the folder from which batchrec is imported.
    has_daemon: whether a daemon starts the runs that somebody launches on the page.
    """
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = Path(sys.executable).with_name("batchrec")
    environment = {**project.process_environment(), "PYTHONPATH": str(code)}
    with started(
        [str(command), "ui", *([] if has_daemon else ["--no-daemon"]), "--port", str(port)],
        project.root,
        environment,
        project.root / "webserver.log",
    ) as server:
        server.wait_for(lambda: answers(f"{address}/server_info"), "answer of the UI", timeout=300)
        yield address


# JavaScript that follows a URL as a link of the UI does.
FOLLOW = """(url) => {
  history.pushState({}, '', url);
  dispatchEvent(new PopStateEvent('popstate'));
}"""


def go(page: Any, url: str) -> None:
    """Go to a page of the UI as the UI's own links do.

    Loading all scripts again would take seconds, so only the first page of a server loads them.
    """
    if page.url.split("/")[2:3] == url.split("/")[2:3]:
        page.evaluate(FOLLOW, url)
    else:
        page.goto(url)


def answers(url: str) -> bool | None:
    """Return True if the URL is answered with status 200, else None."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200 or None
    except (urllib.error.URLError, OSError):
        return None
