"""The `batchrec` command group.

Each subcommand has a module of its own. This module only puts the subcommands together.
"""

import atexit
import gc
from typing import Any

import click

from batchrec_dagster.cli.check import check
from batchrec_dagster.cli.diff import diff
from batchrec_dagster.cli.forget import forget
from batchrec_dagster.cli.init import init
from batchrec_dagster.cli.list_pipelines import list_pipelines
from batchrec_dagster.cli.new import new
from batchrec_dagster.cli.open_page import open_page
from batchrec_dagster.cli.rollback import rollback
from batchrec_dagster.cli.run import run
from batchrec_dagster.cli.show import show
from batchrec_dagster.cli.teardown import teardown
from batchrec_dagster.cli.ui import ui
from batchrec_dagster.errors import UserError
from batchrec_dagster.local_personalize.api.command import local_personalize
from batchrec_dagster.reporting.views.plain import escape_invisible, fit_terminal

# Dagster imports so many objects that a garbage collection takes up to half a second with Python's
# default threshold. The collection at the end of the process takes a third of a second more.
COLLECTION_THRESHOLD = 200_000
gc.set_threshold(COLLECTION_THRESHOLD)
atexit.register(gc.freeze)


class Commands(click.Group):
    """A group of commands that reports expected errors as messages.

    Any other exception is a bug, and ends the command with a traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            require_memory()
            return super().invoke(ctx)
        except (click.Abort, click.exceptions.Exit):
            raise
        except click.ClickException as error:
            # The message may repeat text from a file or an argument.
            error.message = _format_message(error.message)  # type: ignore[misc]
            raise
        except Exception as error:
            message = _explain_error(error)
            if not message:
                raise
            raise click.ClickException(_format_message(message)) from error


NO_MEMORY = (
    "this process may take too little memory. Give it more: a limit of `ulimit -v` has to be 2 GB"
    " at least, or lift it with `ulimit -v unlimited`"
)
LEAST_MEMORY = 2 * 1024**3


def require_memory() -> None:
    """Raise ClickException if a memory limit is too low to load the libraries.

    Without this check, Python would run out of memory somewhere in an import, where it cannot even
    report the error.
    """
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit.
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
        raise click.ClickException(NO_MEMORY)


def _format_message(message: str) -> str:
    """Return the message wrapped for the terminal, with control characters escaped."""
    # Click prints this word before the message.
    start = "Error: "
    return fit_terminal("\n".join(map(escape_invisible, message.splitlines())), start=start)


def _explain_error(error: Exception) -> str:
    """Return the message of an expected error, or an empty text if the error is a bug.

    The message tells the user what to do.
    """
    from dagster import DagsterInvariantViolationError, Failure

    from batchrec_dagster.pipeline.declaration_errors import DeclarationError
    from batchrec_dagster.pipeline.deployment import DeploymentError

    settings_errors = (DeploymentError, DeclarationError, DagsterInvariantViolationError)
    if isinstance(error, Failure):
        return error.description or ""
    if isinstance(error, (UserError, *settings_errors)):
        return str(error)
    return ""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchrec-dagster")
def main() -> None:
    """Batch recommendations with Amazon Personalize, as Dagster assets.

    \b
    Examples:
      batchrec new shop --ratings orders.csv   # declare a pipeline for your own data
      batchrec run shop                        # make its recommendations
      batchrec open                            # the report, in a browser
      batchrec show                            # quality and location of the newest lists
      batchrec show 10028                      # a user's history and recommendations
      batchrec diff                            # what changed since the edition before
      batchrec COMMAND --help                  # more examples

    \b
    Exit codes:
      0  success
      1  failure; the message says why, and what to do
      2  wrong usage: an invalid option or argument
      3  not found: no such pipeline, user or item
    """  # noqa: D301


for command in (
    *(init, new, check, run, list_pipelines, show, diff, open_page, ui, rollback),
    *(forget, teardown, local_personalize),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
