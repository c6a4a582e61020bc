"""The `batchrec ui` command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import yaml

from batchrec_dagster.cli.dagster_home import open_dagster_home, open_dagster_instance
from batchrec_dagster.cli.page_address import record_page_address
from batchrec_dagster.cli.project import Project, enter_project_if_any, find_project
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.extras import require
from batchrec_dagster.web.hosts import allowed_hosts


@click.command(short_help="Open Dagster's web page, with its daemon.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option(
    "-w",
    "--workspace",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="The file that names the code locations. Repeat for more. Default: workspace.yaml of this"
    " folder; without one, the project here.",
)
@click.option(
    "--daemon/--no-daemon",
    default=True,
    show_default=True,
    help="Also run Dagster's daemon: schedules, sensors and queued runs.",
)
@allowed_hosts
def ui(
    host: str, port: int, workspace: tuple[Path, ...], daemon: bool, allowed_hosts: frozenset[str]
) -> None:
    """Serve Dagster's web page until Ctrl-C, and run its schedules and sensors.

    Use this instead of `dagster dev` or `dagster-webserver`, which carry out requests from any web
    page in the same browser. The page has no login: anyone who reaches it can start and stop runs.

    \b
    Examples:
      batchrec ui
      batchrec ui --port 3001
      batchrec ui --no-daemon --host 0.0.0.0 --allowed-hosts dagster.example.com
    """  # noqa: D301
    require("serve", "batchrec ui")
    from batchrec_dagster.cli.dagster_ui import serve_ui

    # Opening the instance creates the databases of a new home, before several processes need them.
    project = enter_project_if_any()
    with open_dagster_instance(), ExitStack() as stack:
        files = workspace or [stack.enter_context(open_workspace(project))]
        stack.enter_context(record_page_address(open_dagster_home(), host, port))
        serve_ui(files, host, port, allowed_hosts, daemon=daemon)


@contextmanager
def open_workspace(project: Project | None) -> Iterator[Path]:
    """Yield the path of workspace.yaml in this folder, or of a temporary one for the project.

    The temporary file exists during the block. Raises ProjectError if there is neither a
    workspace.yaml nor a project.
    """
    file = Path("workspace.yaml")
    if file.is_file():
        yield file
        return
    with temporary_folder() as folder:
        made = folder / "workspace.yaml"
        made.write_text(format_workspace(project or find_project()), encoding="utf-8")
        yield made


def format_workspace(project: Project) -> str:
    """Return the text of a workspace.yaml with only this project, as `dg dev` loads it."""
    location = {
        "module_name": project.definitions_module,
        "working_directory": str(project.code),
        "location_name": project.location_name,
    }
    return yaml.safe_dump({"load_from": [{"python_module": location}]}, sort_keys=False)
