"""The `batchrec` command. Thin: each command has its module."""

import atexit
import gc
from typing import Any

import click

from batchrec_dagster.cli.doctor import doctor, verify_aws
from batchrec_dagster.cli.init import init
from batchrec_dagster.cli.new import new
from batchrec_dagster.cli.pipelines import check, list_pipelines, open_page, ui
from batchrec_dagster.cli.project import COLLECTION_THRESHOLD
from batchrec_dagster.cli.rollback import rollback, teardown
from batchrec_dagster.cli.run import run
from batchrec_dagster.cli.show import diff, show
from batchrec_dagster.local_personalize.api.command import local_personalize

gc.set_threshold(COLLECTION_THRESHOLD)
atexit.register(gc.freeze)


class Commands(click.Group):
    """Ends a command with the message of an error that says what to do, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.Abort, click.exceptions.Exit):
            raise
        except click.ClickException as error:
            # It may repeat what a file or an argument says.
            error.message = _safe(error.message)  # type: ignore[misc]
            raise
        except Exception as error:
            if not (message := _message(error)):
                raise
            raise click.ClickException(_safe(message)) from error


def _safe(message: str) -> str:
    """The message without what controls a terminal."""
    from batchrec_dagster.reporting.terminal import escape_invisible

    return "\n".join(map(escape_invisible, message.splitlines()))


def _message(error: Exception) -> str:
    """What the error says; empty for one that is a bug."""
    from dagster import DagsterInvariantViolationError, Failure

    from batchrec_dagster.deployment import DeploymentError
    from batchrec_dagster.pipeline.declaration_errors import DeclarationError
    from batchrec_dagster.pipeline.run_step import EXPECTED_ERRORS

    of_settings = (DeploymentError, DeclarationError, DagsterInvariantViolationError)
    if not isinstance(error, (*EXPECTED_ERRORS, *of_settings, Failure)):
        return ""
    return error.description or "" if isinstance(error, Failure) else str(error)


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
    """


@click.command(short_help="Print a script that makes a shell complete batchrec's commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete commands, options and pipelines.

    \b
    Examples:
      eval "$(batchrec completion bash)"       # this session; add it to ~/.bashrc to keep it
      eval "$(batchrec completion zsh)"        # in ~/.zshrc, after compinit
      batchrec completion fish > ~/.config/fish/completions/batchrec.fish
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(context.find_root().command, {}, "batchrec", "_BATCHREC_COMPLETE").source())


@click.command(short_help="Print the JSON schema of defs.yaml.")
def schema() -> None:
    """Print the JSON schema of defs.yaml. Editors complete and check the file with it.

    \b
    Examples:
      batchrec schema > defs.schema.json
      batchrec schema | jq '.["$defs"].Ratings.properties.source.description'

    \b
    An editor with the YAML language server finds it by this line in the file:
      # yaml-language-server: $schema=PATH
    """
    from batchrec_dagster.config.json_schema import render_declaration_schema

    click.echo(render_declaration_schema(), nl=False)


for command in (
    *(init, new, check, run, list_pipelines, show, diff, open_page, ui, rollback),
    *(teardown, doctor, verify_aws, schema, completion, local_personalize),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
