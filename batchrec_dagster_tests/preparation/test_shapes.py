"""How many tries it takes with `batchrec new` until data of a shape are read as they are meant.

The first try names nothing but the file. The second does what the message of the first says. What
`new` writes is then read as a run reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli.new import new
from batchrec_dagster.preparation.confined import reader
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster_tests.preparation.own_data import prepare_interactions
from batchrec_dagster_tests.preparation.shapes import PLAIN, REFUSED, SHAPES, Shape


@pytest.fixture(scope="module")
def kept_child() -> Iterator[None]:
    """One child process reads the packed files of all shapes.

    Starting it takes longer than reading a small file, and each shape would start several.
    """
    children: list[Any] = []
    start_child = reader._Child

    def get_child(limits: Limits) -> Any:
        if not children:
            children.append(start_child(limits))
        return children[0]

    def leave_child(self: reader.ConfinedReader) -> None:
        self._child = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_Child", get_child)
        patch.setattr(reader.ConfinedReader, "_end", leave_child)
        yield
    for child in children:
        child.end()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_child: None) -> Path:
    """The folder of a project, in which `new` writes its declaration without loading it."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\n'
    )
    (tmp_path / "shop").mkdir()

    def write_declaration(project: Any, name: str, text: str) -> Path:
        path = Path(tmp_path, f"{name}.yaml")
        path.write_text(text)
        return path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHREC_HOME", str(tmp_path / ".batchrec"))
    module = "batchrec_dagster.cli.write_declaration"
    monkeypatch.setattr(f"{module}.write_declaration", write_declaration)
    monkeypatch.setattr(f"{module}.require_loadable_project", lambda *_: None)
    # Fewer rows are quicker to write and to read.
    monkeypatch.setattr("batchrec_dagster.steps.checks.MIN_INTERACTIONS", 20)
    monkeypatch.setattr("batchrec_dagster.steps.checks.MIN_USERS_WITH_TWO_INTERACTIONS", 5)
    return tmp_path


def declare(folder: Path, source: str, options: Sequence[str]) -> tuple[list[str] | None, str]:
    """The interactions that a run reads with what `new` declares, and what `new` says.

    options: of `new`; one that starts with `!/` is added to the source.
    """
    parts = [option for option in options if option.startswith("!/")]
    others = [option for option in options if option not in parts]
    declaration = folder / "shop.yaml"
    declaration.unlink(missing_ok=True)
    result = CliRunner().invoke(new, ["shop", "--ratings", "".join([source, *parts]), *others])
    if result.exit_code:
        assert isinstance(result.exception, SystemExit | Exception)
        return None, result.output + str(result.exception)
    attributes = yaml.safe_load(declaration.read_text())["attributes"]
    lines, _ = prepare_interactions(folder, attributes)
    return sorted(line.rpartition(",")[0] for line in lines), result.output


def count_tries(shape: Shape, folder: Path) -> int:
    """How many tries the shape takes to be right; 3 if it takes more than two."""
    source = shape.write(folder)
    lines, message = declare(folder, source, [])
    if lines == shape.expected_lines:
        return 1
    assert shape.message, (message, lines, shape.expected_lines)
    assert shape.message in message
    lines, message = declare(folder, source, shape.options)
    assert lines == shape.expected_lines, (message, lines, shape.expected_lines)
    return 2


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_shape_is_right_at_once_or_with_the_options_of_the_message(
    folder: Path, shape: Shape
) -> None:
    assert count_tries(shape, folder) == (2 if shape.options else 1)


@pytest.mark.parametrize("shape", REFUSED, ids=lambda shape: shape.name)
def test_what_is_not_read_is_refused_by_its_name(folder: Path, shape: Shape) -> None:
    lines, message = declare(folder, shape.write(folder), [])
    assert lines is None
    assert shape.message in message


def test_items_below_a_title_are_found_too(folder: Path) -> None:
    (folder / "orders.csv").write_text(PLAIN)
    lines = [f"i{number},Lamp {number},A" for number in range(3)]
    text = "\n".join(["Catalogue of May", "", "item_id,title,category", *lines])
    (folder / "items.csv").write_text(text)
    declared_lines, message = declare(folder, "orders.csv", ["--items", "items.csv"])
    assert declared_lines is not None, message
    items = yaml.safe_load((folder / "shop.yaml").read_text())["attributes"]["items"]
    assert items["header"] == 3
    assert items["columns"]["title"] == "title"
