"""Builders that several tests need: ratings, projects, and real data if it is available."""

from __future__ import annotations

import importlib
import io
import os
import random
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dagster as dg
import polars as pl
import pytest
import yaml

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.pipeline.loading import load_pipelines
from batchrec_dagster.storage.objects import ObjectStore

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

# The assets of a pipeline that declares only ratings, in their order.
ASSETS = [
    "raw_ratings",
    "interactions",
    "batch_users",
    "personalize_dataset",
    "recommendation_outcomes",
    "solution_version",
    "recommendations",
    "recommendation_report",
]

REPOSITORY = Path(__file__).parents[2]
# The folder that `batchrec init` copies.
NEW_PROJECT = REPOSITORY / "batchrec_dagster" / "cli" / "new_project"
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
# The tags of axe's rules for WCAG 2.2 at the levels A and AA.
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# The block `items.columns` for the file that `write_items` writes.
ITEM_COLUMNS = {
    "item": "movieId",
    "title": "title",
    "categories": {"GENRES": "genres"},
    "numbers": {"YEAR": "year"},
    "created": "added",
}
COLUMNS = {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}


def real_data(name: str) -> Path:
    """Return the path of a real data set beside the repository, or skip the test without it."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"the data set ../shared/data/{name} is not here")
    return path


def write_ratings(
    path: Path, *, users: int = 60, items: int = 80, seed: int = 0, own: int = 25, other: int = 5
) -> Path:
    """Write a small CSV of ratings that a model can learn from.

    Users with odd ids like odd items, and users with even ids like even items. A user gives high
    ratings to items of their own half, and mixed ratings to items of the other half.

    own, other: the number of items that a user rates in their own half, and in the other half.
    """
    chance = random.Random(seed)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(1, users + 1):
        own_half = [item for item in range(1, items + 1) if item % 2 == user % 2]
        other_half = [item for item in range(1, items + 1) if item % 2 != user % 2]
        for item in [*chance.sample(own_half, own), *chance.sample(other_half, other)]:
            rating = chance.choice([4, 4.5, 5] if item in own_half else [1, 2, 4])
            lines.append(f"{user},{item},{rating},{1_500_000_000 + chance.randrange(10**7)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_source(
    folder: Path, contents: str | bytes | Mapping[str, str | bytes], name: str = "data.csv"
) -> str:
    """Write a file, or several files into a folder, and return the source to declare.

    contents: the content of the file, or contents by file name for a folder.
    name: the name of the single file.
    """
    files = contents if isinstance(contents, Mapping) else {name: contents}
    root = folder / "in" if isinstance(contents, Mapping) else folder
    for file_name, content in files.items():
        path = root / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return "in/" if isinstance(contents, Mapping) else name


def write_items(path: Path, *rows: str, items: int = 80) -> Path:
    """Write a CSV of items: odd items are comedies and even items are dramas.

    rows: further lines at the end of the file.
    """
    lines = ["movieId,title,genres,year,added"]
    for item in range(1, items + 1):
        genre = "Comedy;Romance" if item % 2 else "Drama"
        lines.append(f'{item},"Film, no. {item}",{genre},{1950 + item},2001-02-{item % 28 + 1:02}')
    path.write_text("\n".join([*lines, *rows]) + "\n")
    return path


def zip_members(members: dict[str, bytes]) -> bytes:
    """Return a ZIP archive with these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def declaration(name: str, source: Path | str, **attributes: Any) -> dict[str, Any]:
    """Return a pipeline's attributes as its YAML has them."""
    return {
        "name": name,
        "ratings": {"source": str(source), "columns": COLUMNS},
        "interactions": {"min_rating": 3.5},
        **attributes,
    }


@dataclass
class Project:
    """A separate project with pipelines declared in YAML, and a home for its runs' results."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def declare(self, attributes: Mapping[str, Any]) -> Path:
        """Write defs/NAME/defs.yaml, and return its path."""
        file = self.package / "defs" / str(attributes["name"]) / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            yaml.safe_dump(
                {
                    "type": "batchrec_dagster.BatchRecommendations",
                    "attributes": dict(attributes),
                },
                sort_keys=False,
            )
        )
        return file

    @property
    def package(self) -> Path:
        return next(self.root.glob("*/__init__.py")).parent

    @property
    def storage(self) -> Path:
        return self.root / ".batchrec" / "storage"

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command as a user does in the project's folder."""
        return subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            cwd=self.root,
            env=self.process_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def process_environment(self) -> dict[str, str]:
        home = self.root / ".batchrec" / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "dagster.yaml", home)
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("BATCHREC_", "DAGSTER_", "AWS_"))
        }
        return {**inherited, "DAGSTER_HOME": str(home), **self.environment}


def copied_project(root: Path) -> Project:
    """Copy this repository's project without its pipelines, to run commands in the copy."""
    # Compiled files are copied too, except files that another process is writing.
    ignored = shutil.ignore_patterns("*.pyc.*", "defs")
    shutil.copytree(REPOSITORY / "batchrec_dagster", root / "batchrec_dagster", ignore=ignored)
    for name in ("pyproject.toml", "workspace.yaml", "dagster.yaml"):
        shutil.copy(REPOSITORY / name, root)
    return Project(root)


def module_project(root: Path) -> Project:
    """Create a project with a unique module name, so that this process can load its pipelines."""
    name = f"project_{uuid.uuid4().hex}"
    (root / name / "defs").mkdir(parents=True)
    (root / name / "__init__.py").touch()
    (root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\n'
    )
    return Project(root)


@contextmanager
def definitions(project: Project) -> Iterator[dg.Definitions]:
    """Yield the definitions of a `module_project`, with a deployment in the project's folder."""
    sys.path.insert(0, str(project.root))
    try:
        importlib.invalidate_caches()
        environment = {
            "BATCHREC_HOME": str(project.root / ".batchrec"),
            "BATCHREC_POLL_SECONDS": "0.02",
            **project.environment,
        }
        with patch.dict(os.environ, environment):
            loaded = load_pipelines(project.package)
        yield dg.Definitions.merge(
            loaded, dg.Definitions(executor=Deployment.from_environment(environment).executor())
        )
    finally:
        sys.path.remove(str(project.root))


def refresh(
    project: Project,
    name: str,
    instance: dg.DagsterInstance,
    run_config: Mapping[str, Any] | None = None,
    assets: Sequence[str] | None = None,
    *,
    report: bool = False,
) -> dg.ExecuteInProcessResult:
    """Run a pipeline's refresh job in this process.

    assets: the assets to run; None or empty for all.
    report: whether to make the report, which takes a third of a small run's time. It has no effect
        if `assets` has names.
    """
    with definitions(project) as defs:
        job = defs.resolve_job_def(f"{name}_refresh")
        selection = {dg.AssetKey([name, asset]) for asset in assets or ()}
        if not assets:
            selection = {
                key
                for key in job.asset_layer.selected_asset_keys
                if report or key.path[-1] != "recommendation_report"
            }
        return job.execute_in_process(
            instance=instance,
            run_config=run_config,
            asset_selection=[*selection],
            raise_on_error=False,
        )


def open_personalize(project: Project) -> PersonalizeClient:
    """Return a boto3 client of the embedded Personalize that the project's runs use."""
    return embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())


def count_created(project: Project) -> Counter[str]:
    """Count the imports, models and batch inference jobs of the project's Personalize."""
    client = open_personalize(project)
    return Counter(
        imports=len(client.list_dataset_import_jobs()["datasetImportJobs"]),
        models=len(client.list_solution_versions()["solutionVersions"]),
        jobs=len(client.list_batch_inference_jobs()["batchInferenceJobs"]),
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return a run's checks by name; if several checks have the same name, the last."""
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def table(project: Project, name: str) -> pl.DataFrame:
    return pl.read_parquet(
        project.storage / name / "curated/recommendations/recommendations.parquet"
    )


def interactions(project: Project, name: str) -> pl.DataFrame:
    return pl.read_csv(
        project.storage / name / "transformed/interactions/interactions.csv",
        schema_overrides={"USER_ID": pl.String, "ITEM_ID": pl.String},
    )


def assert_etags_are_given(store: ObjectStore, folder: Path, root: str) -> None:
    """Fail unless the store returns the ETags of objects that it puts and copies.

    One object is put in one request, and one in parts.
    """
    file = folder / "file"
    file.write_bytes(b"0123456789" * 1_000_000)

    def etag(uri: str) -> str:
        info = store.head(uri)
        assert info is not None
        assert info.etag
        return info.etag

    assert store.put(f"{root}/small", b"x") == etag(f"{root}/small")
    assert store.put(f"{root}/large", file) == etag(f"{root}/large")
    for name in ("small", "large"):
        copied = store.copy(f"{root}/{name}", f"{root}/copy of {name}")
        assert copied == etag(f"{root}/copy of {name}")


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None and event.asset_key.path[-1] == asset
    ]
    return {key: value.value for key, value in event.materialization.metadata.items()}


def outcomes(result: dg.ExecuteInProcessResult) -> list[object]:
    return [
        metadata(result, asset)["outcome"]
        for asset in ("raw_ratings", "personalize_dataset", "solution_version", "recommendations")
    ]


def why(result: dg.ExecuteInProcessResult) -> str:
    """Return the description of the failed step's failure."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return failure.description or ""
