"""Tests of how many tries `batchrec new` needs until data of a shape are read rightly.

The first try names only the file. The second try follows the first message. A run's code then reads
the declaration that `new` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.tables.shape_files import PLAIN
from batchrec_dagster_tests.guard.tables.shapes import REFUSED, SHAPES, Shape

Rows = list[tuple[str, str, int]]


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project in the working folder."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    return project


def declare(shop: Project, source: str, options: Sequence[str]) -> tuple[Rows | None, str]:
    """Return the interactions that a run reads with the declaration of `new`, and `new`'s message.

    options: options of `new`; an option that starts with `!/` is appended to the source.
    """
    parts = [option for option in options if option.startswith("!/")]
    other_options = [option for option in options if option not in parts]
    result = CliRunner().invoke(
        main, ["new", "shop", "--ratings", "".join([source, *parts]), *other_options]
    )
    if result.exit_code:
        assert isinstance(result.exception, SystemExit), result.exception
        return None, result.output
    declared = yaml.safe_load((shop.package / "defs/shop/defs.yaml").read_text())["attributes"]
    rows = preparation.prepare(shop.root, {"ratings": declared["ratings"]}).rows
    return sorted(rows), result.output


def is_right(shape: Shape, rows: Rows | None) -> bool:
    if rows is not None and not shape.precision:
        rows = [(user, item, 0) for user, item, _ in rows]
    return rows == shape.expected_rows


# A shape takes a quarter of a second, so all shapes run only at night.
@pytest.mark.parametrize("shape", SHAPES[:: repeats(1, 3)], ids=lambda shape: shape.name)
def test_a_shape_is_right_at_once_or_with_the_options_of_the_message(
    shop: Project, shape: Shape
) -> None:
    source = shape.write(shop.root)
    rows, message = declare(shop, source, [])
    if not shape.message:
        assert is_right(shape, rows), (message, rows)
        return
    assert rows is None
    assert shape.message in message
    rows, message = declare(shop, source, shape.options)
    assert is_right(shape, rows), (message, rows)


@pytest.mark.parametrize("shape", REFUSED, ids=lambda shape: shape.name)
def test_unsupported_shapes_are_refused_by_name(shop: Project, shape: Shape) -> None:
    rows, message = declare(shop, shape.write(shop.root), [])
    assert rows is None
    assert shape.message in message


def test_items_below_a_title_are_found_too(shop: Project) -> None:
    (shop.root / "orders.csv").write_text(PLAIN)
    lines = [f"i{number},Lamp {number},A" for number in range(25)]
    text = "\n".join(["Catalogue of May", "", "item_id,title,category", *lines])
    (shop.root / "items.csv").write_text(text)
    rows, message = declare(shop, "orders.csv", ["--items", "items.csv"])
    assert rows is not None, message
    declared = yaml.safe_load((shop.package / "defs/shop/defs.yaml").read_text())
    items = preparation.prepare_items(shop.root, declared["attributes"]["items"])
    assert items.titles.row(0) == ("i0", "Lamp 0")
    assert (items.titles.height, items.rows_read) == (25, 25)
