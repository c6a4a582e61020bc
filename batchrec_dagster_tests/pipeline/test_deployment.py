"""The environment's settings: what they choose, and what is told when they cannot work."""

import re
import shutil
from pathlib import Path

import pytest

from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.config.environment import VARIABLES, find_misspelt_variables
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster_tests.guard.builders import REPOSITORY, Project


def test_prices_are_the_defaults_and_those_of_the_file(tmp_path: Path) -> None:
    assert Deployment.from_environment({}).personalize_resource.read_prices() == Prices()
    file = tmp_path / "prices.yaml"
    file.write_text("import_per_gb: 0.06\n")
    own = Deployment.from_environment({"BATCHREC_PRICES": str(file)}).personalize_resource
    assert own.read_prices() == Prices(import_per_gb=0.06)


# Environments, and the variable that the message names.


def test_no_code_reads_a_variable_that_is_not_described() -> None:
    """Beside those of the local Personalize's own server, which --help tells."""
    read = {
        name
        for path in (REPOSITORY / "batchrec_dagster").rglob("*.py")
        for name in re.findall(r"\b(BATCHREC_[A-Z_]+[A-Z])\b", path.read_text())
        if not name.startswith("BATCHREC_LOCAL_PERSONALIZE_")
    }
    assert read <= {variable.name for variable in VARIABLES}


def test_a_variable_that_is_misspelt_is_noticed() -> None:
    environment = {"BATCHREC_STORGE": "", "BATCHREC_STORAGE": "", "BATCHREC_SHOP_DATABASE": ""}
    assert find_misspelt_variables(environment) == {"BATCHREC_STORGE": "BATCHREC_STORAGE"}


def test_both_homes_are_made_for_their_user_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(REPOSITORY / "dagster.yaml", project.root)
    monkeypatch.chdir(project.root)
    for name in ("BATCHREC_HOME", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    dagster_home = use_dagster_home()
    assert dagster_home == project.root / ".batchrec/dagster"
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(project.root / "home")})
    deployment.make_home()
    for folder in (dagster_home, dagster_home.parent, deployment.home):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (dagster_home / "dagster.yaml").stat().st_mode & 0o777 == 0o600
