"""How a command ends that cannot do what it was asked for."""

import click


class NotThereError(click.ClickException):
    """What was asked for is not there: no such pipeline, user or item."""

    exit_code = 3
