"""Tests that a stranger's text stays text wherever people see it, and runs or fetches nothing."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.hostile import ADDRESS, CONTROLS, MARKDOWN, OUTSIDE
from batchrec_dagster_tests.guard.strange_shop import (
    IDS,
    REQUESTED,
    StrangeShop,
    name_user,
)

pytestmark = [pytest.mark.attack, pytest.mark.slow]

# A spreadsheet reads a formula at the start of a cell.
FORMULA = re.compile("^[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r]")


def test_dagster_shows_it_as_text(strange_shop: StrangeShop) -> None:
    texts = [text for kind, text in strange_shop.shown_in_dagster if kind == "markdown"]
    assert sum("www" in text for text in texts) > 1
    for text in texts:
        tokens = MARKDOWN.parse(text)
        tokens += [child for token in tokens for child in token.children or ()]
        kinds = {token.type for token in tokens}
        assert not kinds & {"image", "link_open", "html_inline", "html_block"}, text
        for token in tokens:
            if token.type in {"text", "text_special"}:
                assert not ADDRESS.search(token.content), text


def test_dagster_links_to_no_address_of_the_files(strange_shop: StrangeShop) -> None:
    urls = [text for kind, text in strange_shop.shown_in_dagster if kind == "url"]
    assert not [url for url in urls if OUTSIDE in url]


USER = name_user(IDS.index(next(text for text in IDS if text.startswith("\x1b"))))


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "shop", "--editions"],
        ["show", "--pipeline", "shop"],
        ["show", "--pipeline", "shop", "--", USER],
        ["diff", "--pipeline", "shop"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]).replace("\x1b", ""),
)
def test_nothing_controls_a_terminal(
    strange_shop: StrangeShop, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(strange_shop.project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(strange_shop.project.root / ".batchrec"))
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "shop" in result.output
    assert not CONTROLS.search(result.output)


@pytest.mark.parametrize("number", range(1, len(IDS) + 1))
def test_a_name_can_be_asked_for_and_read_in_a_terminal(
    strange_shop: StrangeShop, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.chdir(strange_shop.project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(strange_shop.project.root / ".batchrec"))
    user = name_user(number + REQUESTED[0])
    result = CliRunner().invoke(main, ["show", "--pipeline", "shop", "--", user])
    assert result.exit_code == 0, result.output
    assert str(number + REQUESTED[0]) in result.output
    assert not CONTROLS.search(result.output)


def test_no_cell_of_an_export_is_a_formula(strange_shop: StrangeShop) -> None:
    rows = strange_shop.mail
    # Ids are exact, because programs find people and items by id.
    assert {row["user_id"] for row in rows} == {name_user(number) for number in REQUESTED}
    texts = [
        cell
        for row in rows
        for column, cell in row.items()
        if not column.startswith(("user_id", "item_"))
    ]
    assert "=" in "".join(texts)
    assert not [text for text in texts if FORMULA.search(text)]
