"""`batchrec ui`."""

from __future__ import annotations

from pathlib import Path

import click

from batchrec_dagster.cli.project import dagster_instance
from batchrec_dagster.storage.extras import require
from batchrec_dagster.web import allowed_hosts


@click.command(short_help="Open Dagster's web page, with its daemon.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option(
    "-w",
    "--workspace",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=["workspace.yaml"],
    show_default=True,
    help="The file that names the code locations. Repeat for more.",
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

    Use this, not `dagster dev` or `dagster-webserver`: those execute what any web page in the same
    browser sends them. The page has no login: anyone who reaches it can start and stop runs.

    \b
    Examples:
      batchrec ui
      batchrec ui --port 3001
      batchrec ui --no-daemon --host 0.0.0.0 --allowed-hosts dagster.example.com
    """
    require("serve", "batchrec ui")
    from batchrec_dagster.web.dagster_ui import serve_ui

    with dagster_instance():
        pass  # The databases of a new home are there, before several processes look for them.
    serve_ui(workspace, host, port, allowed_hosts, daemon=daemon)
