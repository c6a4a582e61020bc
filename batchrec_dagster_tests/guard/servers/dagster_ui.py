"""Dagster's UI over what pipelines have made."""

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
# So that the assets are large enough on the page of a lineage to show their state.
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
    """The address of a webserver that has loaded a module_project's pipelines."""
    (project.root / "definitions.py").write_text(DEFINITIONS)
    (project.root / "workspace.yaml").write_text(WORKSPACE)
    with ui_of(project, REPOSITORY) as address:
        yield address


@contextmanager
def ui_of(project: Project, code: Path, *, has_daemon: bool = False) -> Iterator[str]:
    """The address of a webserver on the project's workspace and the instance of its environment,
    with the batchrec of the folder `code`.

    has_daemon: whether runs start that the page asks for.
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


# What a link of the UI does.
FOLLOW = """(url) => {
  history.pushState({}, '', url);
  dispatchEvent(new PopStateEvent('popstate'));
}"""


def go(page: Any, url: str) -> None:
    """Go to a page of the UI as its own links do: to load all its scripts again takes seconds."""
    if page.url.split("/")[2:3] == url.split("/")[2:3]:
        page.evaluate(FOLLOW, url)
    else:
        page.goto(url)


def answers(url: str) -> bool | None:
    """True once something is served there."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200 or None
    except (urllib.error.URLError, OSError):
        return None
