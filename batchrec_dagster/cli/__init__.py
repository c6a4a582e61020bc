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
      batchrec show                            # quality and location of the newest lists
      batchrec show 10028                      # a user's history and recommendations
      batchrec COMMAND --help                  # more examples

    \b
    Exit codes:
      0  success
      1  failure; the message says why, and what to do
      2  wrong usage: an invalid option or argument
      3  not found: no such pipeline, user or item
    """


for command in (new, doctor, show, rollback, schema, completion, local_personalize):
    main.add_command(command)


if __name__ == "__main__":
    main()
