"""How far a reader walks: the files that run when `recommendations` is materialized.

    python benchmarks/reading_path.py [--again] [--out reading_path.json]

A small generated project is refreshed up to `recommendations`. That asset alone is then
materialized in this process under `sys.setprofile`, which sees every call of a function of
batchrec_dagster outside `local_personalize`. The two numbers are how many files these functions
stand in, and how often a call is in another file than the call before it. With `--again` the lists
are published already, and the asset finds that nothing has changed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

import dagster as dg
import yaml
from report import RESULTS, table, write

import batchrec_dagster
from batchrec_dagster.deployment import Deployment

PACKAGE = f"{Path(batchrec_dagster.__file__).parent}{os.sep}"
LOCAL_PERSONALIZE = f"local_personalize{os.sep}"
USERS, ITEMS, RATINGS_OF_A_USER = 60, 80, 30


class CallRecorder:
    """The files of the package, outside local_personalize, whose functions are called.

    What local_personalize calls while it answers a request is left out too: on AWS it does not
    run, so who reads the asset does not go there.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._depth_in_local_personalize = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Record a call; what `sys.setprofile` takes."""
        file = frame.f_code.co_filename
        if event not in ("call", "return") or not file.startswith(PACKAGE):
            return
        path = file.removeprefix(PACKAGE)
        if path.startswith(LOCAL_PERSONALIZE):
            self._depth_in_local_personalize += 1 if event == "call" else -1
        elif event == "call" and not self._depth_in_local_personalize:
            self.calls.append((path, frame.f_code.co_qualname))

    @property
    def files(self) -> list[str]:
        """The files, those with the most calls first."""
        return [path for path, _ in Counter(path for path, _ in self.calls).most_common()]

    @property
    def changes(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """The pairs of calls, one after the other, that are in two files."""
        pairs = zip(self.calls, self.calls[1:], strict=False)
        return [(before, after) for before, after in pairs if before[0] != after[0]]


def generate_ratings(path: Path) -> None:
    """Write ratings of users who each prefer the even or the odd items."""
    generator = random.Random(0)  # noqa: S311
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(USERS):
        for item in generator.sample(range(ITEMS), RATINGS_OF_A_USER):
            rating = 5 if item % 2 == user % 2 else generator.choice([1, 4])
            lines.append(f"{user},{item},{rating},{1_500_000_000 + generator.randrange(10**7)}")
    path.write_text("\n".join(lines) + "\n")


def create_project(root: Path) -> Path:
    """The package of a project with one pipeline, `shop`."""
    package = root / "shops"
    declaration = package / "defs" / "shop" / "defs.yaml"
    declaration.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    (root / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shops"\n'
    )
    generate_ratings(root / "ratings.csv")
    attributes = {"name": "shop", "ratings": {"source": str(root / "ratings.csv")}}
    declaration.write_text(
        yaml.safe_dump({"type": "batchrec_dagster.BatchRecommendations", "attributes": attributes})
    )
    return package


def record_calls(root: Path, *, is_second_run: bool) -> CallRecorder:
    """The calls of materializing `recommendations` once all that it needs is there."""
    from batchrec_dagster.pipeline.loading import load_pipelines

    package = create_project(root)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    os.environ["BATCHREC_HOME"] = str(root / "home")
    os.environ["BATCHREC_POLL_SECONDS"] = "0.02"
    deployment = Deployment.from_environment(os.environ)
    definitions = dg.Definitions.merge(
        load_pipelines(package), dg.Definitions(executor=deployment.executor())
    )
    job = definitions.resolve_job_def("shop_refresh")
    recommendations = dg.AssetKey(["shop", "recommendations"])
    upstream = ["raw_ratings", "interactions", "batch_users", "personalize_dataset"]
    upstream.append("solution_version")
    recorder = CallRecorder()
    with dg.DagsterInstance.ephemeral() as instance:
        first = [dg.AssetKey(["shop", name]) for name in upstream]
        if is_second_run:
            first.append(recommendations)
        job.execute_in_process(instance=instance, asset_selection=first)
        # Of this thread alone: the order of calls in several threads is chance.
        sys.setprofile(recorder)
        try:
            job.execute_in_process(instance=instance, asset_selection=[recommendations])
        finally:
            sys.setprofile(None)
    return recorder


def main() -> None:
    """Print the two numbers, the files, and the changes between them that happen most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--again", action="store_true", help="the lists are published already")
    parser.add_argument("--trace", action="store_true", help="print every change of file")
    parser.add_argument("--out", type=Path, default=RESULTS / "reading_path.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recorder = record_calls(Path(folder), is_second_run=arguments.again)
    changes = recorder.changes
    if arguments.trace:
        for before, after in changes:
            print(f"{before[0]}:{before[1]} -> {after[0]}:{after[1]}")
    title = f"{len(recorder.files)} files, {len(changes)} changes between them"
    calls = Counter(path for path, _ in recorder.calls)
    print(table(title, [{"file": path, "calls": str(calls[path])} for path in recorder.files]))
    pairs = Counter((before[0], after[0]) for before, after in changes)
    rows = [
        {"from": before, "to": after, "changes": str(count)}
        for (before, after), count in pairs.most_common(30)
    ]
    print(table("\nThe most frequent changes", rows))
    write(arguments.out, {"files": len(recorder.files), "changes": len(changes)})


if __name__ == "__main__":
    main()
