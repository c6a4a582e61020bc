"""README and docs: the site builds, links lead somewhere, and every command is run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster_tests.support import REPOSITORY, WCAG

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
# What a block of code may hold. `sh` is what a reader types, and the tests here run.
LANGUAGES = {"sh", "bash", "yaml", "json", "csv", "python", "sql", "text", "mermaid"}
PROGRAMS = re.compile(r"^\s*\$? ?(make|batchrec|dagster|aws|pip|docker|export|cp|dg|python) ")
# `bash` is what a reader types, and another test looks after.
LOOKED_AFTER = {
    "aws.md": "test_deploy.py holds the commands beside AWS's own",
    "plug-in.md": "test_team_project.py types them in a fresh environment",
    "local-personalize.md": "local_personalize/test_aws_command.py runs them",
}
# They run the tests.
OF_DEVELOPERS = {"CONTRIBUTING.md"}
BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and the text of each block of code."""
    for indent, language, text in BLOCK.findall(page.read_text()):
        yield language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_typed_is_marked_so_that_it_is_run(page: Path) -> None:
    for language, text in blocks(page):
        assert language in LANGUAGES, f"of which language is this?\n{text}"
        typed = [line for line in text.splitlines() if PROGRAMS.match(line)]
        if language == "bash":
            assert page.name in LOOKED_AFTER, f"which test runs this?\n{text}"
        elif language == "sh":
            assert page.name in {name.rpartition("/")[2] for name in TYPED}, text
        elif page.name not in OF_DEVELOPERS:
            assert not typed, f"mark as sh what is typed: {typed}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built documentation."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).parent / "mkdocs"
    if not mkdocs.exists():
        pytest.skip("there is no mkdocs: pip install mkdocs-material")
    built = subprocess.run(
        [str(mkdocs), "build", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # It is strict: a link or an anchor that leads nowhere ends it with an error.
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_asks_nothing_of_others(site: Path) -> None:
    pages = [*site.glob("*.html")]
    assert len(pages) > 10
    for page in pages:
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(.+?)\"", page.read_text())
        fetched += re.findall(r"<link[^>]+href=\"(.+?)\"", page.read_text())
        assert not [url for url in fetched if "//" in url], page.name
    reference = (site / "reference.html").read_text()
    assert "BATCHREC_STORAGE" in reference
    for setting in Pipeline.model_fields:
        assert f"<code>{setting}</code>" in reference


@pytest.mark.slow
def test_nothing_bars_anyone_from_the_site_on_a_phone(site: Path, browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for name, scheme in (("tutorial", "light"), ("reference", "dark"), ("aws", "light")):
        page = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        page.goto((site / f"{name}.html").as_uri())
        found = axe.run(page, options={"runOnly": WCAG})
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.close()


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads]


# What a reader types


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is cloned, with the environment that these tests run in, and a file."""
    if shutil.which("git") is None:
        pytest.skip("there is no git: apt-get install git")
    root = tmp_path_factory.mktemp("clone") / "batchrec"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no clone: git ls-files does not work here")
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
    environment = root / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    # So that make takes it for what it has set up itself.
    (environment / "run").touch()
    (environment / "dev").touch()
    write_orders(root / "data/orders.csv")
    return root


def write_orders(path: Path) -> None:
    """The orders of a shop: customers of two tastes."""
    chance = random.Random(3)
    start = datetime(2026, 3, 2, tzinfo=UTC)
    lines = ["order_id,customer_id,sku,quantity,ordered_at"]
    for number in range(4_000):
        customer = chance.randrange(1, 120)
        sku = 2 * chance.randrange(1, 60) + customer % 2
        at = start + timedelta(minutes=20 * number)
        lines.append(f"{number},C-{customer:04},SKU-{sku:04},{chance.randint(1, 3)},{at:%FT%TZ}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def typed(page: str, root: Path) -> str:
    """What the commands of a page say, typed one after the other in the project's folder."""
    script = [text for language, text in blocks(REPOSITORY / page) if language == "sh"]
    # README shows first what the tutorial starts with, and has typed.
    script = [text for text in script if page != "README.md" or not text.startswith("make demo ")]
    assert script
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BATCHREC_", "DAGSTER_", "AWS_", "MAKE", "MFLAGS"))
    }
    # Not a pipe: what goes on in the background would hold it open.
    log = root / ".batchrec.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", "set -euo pipefail\n" + "\n".join(script)],
            cwd=root,
            # Nobody looks at what `batchrec open` opens.
            env={**inherited, "PYTHONPATH": str(root), "BROWSER": "true"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(timeout=600)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()
    assert process.returncode == 0, said
    return said


# In this order: the first makes what the others go on from.
TYPED = ("docs/tutorial.md", "docs/operations.md", "README.md")


@pytest.mark.slow
def test_the_tutorial_leads_to_lists_and_the_other_pages_go_on(clone: Path) -> None:
    said = {page: typed(page, clone) for page in TYPED}
    demo, _, shop = said["docs/tutorial.md"].partition("# this run in Dagster\n")
    assert "2,113 users" in demo
    lines = demo.replace(f"{Path(sys.executable).parent}/", ".venv/bin/").splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80, demo
    table = clone / ".batchrec/storage/shop/curated/recommendations/recommendations.parquet"
    assert pl.read_parquet(table).get_column("user_id").n_unique() == 119
    assert "C-0017" in shop.rpartition("published edition 1")[2]
    assert "not imported again" in said["docs/operations.md"]
    assert "nothing was deleted" in said["docs/operations.md"]
