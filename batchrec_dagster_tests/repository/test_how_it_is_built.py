"""Tests that docs/how-it-is-built.md shows the actual rooms, floors, modules and assets."""

from __future__ import annotations

import itertools
import re
import tomllib

import dagster as dg

from batchrec_dagster_tests.guard.builders import REPOSITORY, Project, declaration, definitions

PAGE = (REPOSITORY / "docs/how-it-is-built.md").read_text()
PRODUCT = REPOSITORY / "batchrec_dagster"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def read_floors() -> list[set[str]]:
    """Return the rooms of each floor on the page, the highest floor first."""
    table = PAGE.partition("| floor |")[2].partition("\n\n")[0]
    floors: list[set[str]] = []
    for floor, rooms in re.findall(r"^\| (\d?) ?\| (.+?) \|", table, re.MULTILINE):
        if floor:
            floors.append(set())
        floors[-1] |= set(re.findall(r"`(\w+)(?:/|\.py)`", rooms))
    return floors


def test_imports_obey_the_documented_floors() -> None:
    (contract,) = (
        contract
        for contract in PYPROJECT["tool"]["importlinter"]["contracts"]
        if contract["id"] == "floors"
    )
    assert read_floors() == [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]


def test_each_module_that_the_page_names_is_there() -> None:
    modules = [
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("batchrec_dagster", "batchrec_dagster_tests")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    named_modules = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named_modules) > 40
    assert [
        named
        for named in sorted(named_modules)
        if not any(f"/{module}".endswith(f"/{named}") for module in modules)
    ] == []


def test_each_function_and_class_that_the_page_names_is_there() -> None:
    """The page names, for example, `make_lists`, `ListTable` and `Rules._find_rule`."""
    code = "\n".join(path.read_text() for path in PRODUCT.rglob("*.py"))
    names = re.findall(r"`(?:[A-Z]\w+\.)?([A-Z][A-Za-z]+|_?[a-z]+_[a-z_]+|[A-Z]{6,})`", PAGE)
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_each_call_on_the_path_of_a_list_is_in_a_module_beside_it() -> None:
    table = PAGE.partition("| call |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+?) \| .+? \| (`.+`) \|$", table, re.MULTILINE)
    assert len(rows) > 10
    for calls, modules in rows:
        paths = re.findall(r"`([\w/]+\.py)`", modules)
        code = "\n".join((PRODUCT / path).read_text() for path in paths)
        for call in re.findall(r"`(?:\w+\.)?(\w+)`", calls):
            assert re.search(rf"(def|class) {call}\b", code), f"{call} is not in {paths}"


def read_edges() -> set[tuple[str, str]]:
    """Return the arrows of the page's drawing, each from an asset to a downstream asset."""
    drawing = PAGE.partition("```text\n")[2].partition("```")[0]
    paths = [re.split(r"\s*→\s*", line.strip()) for line in drawing.splitlines()]
    return {edge for path in paths for edge in itertools.pairwise(path)}


def test_values_travel_as_the_page_draws_it(project: Project) -> None:
    sinks = {"postgres": {"url_env": "SHOP_DATABASE_URL"}}
    project.declare(declaration("shop", "ratings.csv", sinks=sinks))
    with definitions(project) as defs:
        graph = defs.resolve_asset_graph()
    edges = read_edges()
    assert len(edges) > 8
    for source, target in edges:
        parents = graph.get(dg.AssetKey(["shop", target])).parent_keys
        assert dg.AssetKey(["shop", source]) in parents, f"{source} → {target}"
