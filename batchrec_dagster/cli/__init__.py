"""The `batchrec` command. Thin: each command has its module."""

import click

from batchrec_dagster.cli.completion import completion, schema
from batchrec_dagster.cli.doctor import doctor
from batchrec_dagster.cli.new import new
from batchrec_dagster.cli.rollback import rollback
from batchrec_dagster.cli.show import show
from batchrec_dagster.local_personalize.api.command import local_personalize


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchrec-dagster")
def main() -> None:
    """Batch recommendations with Amazon Personalize, as Dagster assets.

    \b
    Examples:
      batchrec new shop --ratings orders.csv   # declare a pipeline for your own data
      batchrec show                            # how good the newest lists are, where they lie
      batchrec show 10028                      # what a user had, and what they get
      batchrec COMMAND --help                  # each command has examples of its own

    \b
    Exit codes:
      0  it is done
      1  it could not be done; the message says why, and what to do
      2  it was asked for in a wrong way: an option or argument that cannot be
      3  what was asked for is not there: no such pipeline, user or item
    """


for command in (new, doctor, show, rollback, schema, completion, local_personalize):
    main.add_command(command)


if __name__ == "__main__":
    main()
