"""The deployment that a command works on, as Dagster finds it: from the environment and .env."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchrec_dagster.storage.resource import StorageResource


def environment() -> Mapping[str, str]:
    """This process's, with what .env says, as Dagster has it in this folder."""
    from dotenv import dotenv_values

    told = {name: value for name, value in dotenv_values(Path(".env")).items() if value is not None}
    os.environ.update(told)
    return os.environ


def storage() -> StorageResource:
    """The storage of the deployment. Raises click.ClickException."""
    from batchrec_dagster.deployment import Deployment, DeploymentError

    try:
        resources = Deployment.from_environment(environment()).resources()
    except DeploymentError as error:
        raise click.ClickException(str(error)) from error
    found: StorageResource = resources["storage"]
    return found
