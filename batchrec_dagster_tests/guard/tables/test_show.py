"""Tests of `batchrec show` for a person, an item and a list, on lists written without a run."""

from __future__ import annotations

import json
import random
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.hostile import HOSTILE as STRANGERS
from batchrec_dagster_tests.guard.seams.editions import (
    Files,
    delete_interactions,
    open_list,
    publish_rows,
    restore_edition,
    write_absent,
    write_interactions,
    write_titles,
)
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow

START = 1_500_000_000
USERS = [f"u{number}" for number in range(40)]
ITEMS = [f"i{number:02}" for number in range(20)]
# The output is as wide as in a terminal with this many columns.
NARROW = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "60"}
COLOURS = re.compile("\x1b\\[[0-9;]*m")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the project's folder, without a Dagster instance."""
    monkeypatch.setenv("BATCHREC_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish(
    home: Path,
    address: str = "shop",
    *,
    users: Sequence[str] = USERS,
    items: Sequence[str] = ITEMS,
    titles: Mapping[str, str | None] | None = None,
    has_score: Any = True,
    **facts: Any,
) -> Files:
    """Publish lists: every user has two of three items, and gets the remaining items.

    has_score: an expression for whether a row has a score.
    """
    files, chance = open_list(home, address), random.Random(0)
    had = [
        (user, item, START + 60 * (i + j))
        for i, user in enumerate(users)
        for j, item in enumerate(items)
        if (i + j) % 3
    ]
    # Other users have only another item, so it is more than chance that these users share items.
    had += [(f"other {number}", "aside", START) for number in range(len(users))]
    write_interactions(files, had)
    rows = [
        (user, rank, item, chance.random())
        for i, user in enumerate(users)
        for rank, item in enumerate([item for j, item in enumerate(items) if not (i + j) % 3], 1)
    ]
    schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row").sort("user_id", maintain_order=True)
    publish_rows(files, table.with_columns(pl.when(has_score).then("score")), **facts)
    if titles is not None:
        write_titles(files, titles)
    return files


def number_titles() -> dict[str, str | None]:
    return {item: f"Item, no. {number}" for number, item in enumerate(ITEMS)}


def type_command(command: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, shlex.split(command), env=environment)
    return result.exit_code, result.output


def show(command: str) -> list[dict[str, Any]]:
    code, output = type_command(f"show {command} --json")
    assert code == 0, output
    pipelines: list[dict[str, Any]] = json.loads(output)["pipelines"]
    return pipelines


# The arguments of `batchrec show`, and the exit code.
TYPED = [
    ("", 0),
    ("u3", 0),
    ("new", 0),
    ("u0", 0),
    ("--item i04", 0),
    ("--item 'NO. 1'", 0),
    ("--item '13 item'", 0),
    ("nobody", 3),
    ("U3", 3),
    ("i00", 3),
    ("--item nothing", 3),
    ("u3 --pipeline club", 3),
    ("u3 --item i01", 2),
]


def test_show_in_a_pipe_prints_the_expected_text(home: Path) -> None:
    files = publish(home, titles=number_titles())
    # a user without a list, and a user without a history
    content = files.storage.store.get(files.interactions)
    files.storage.store.put(files.interactions, content.replace(b"u0,", b"new,"))
    texts = []
    for arguments, expected_code in TYPED:
        code, output = type_command(f"show {arguments}")
        assert code == expected_code, output
        assert "\x1b" not in output
        assert not re.search("[│┃━─]", output)
        text = re.sub(r"made \d{4}-\d\d-\d\d \d\d:\d\d", "made TIME", output)
        texts.append((f"batchrec show {arguments}".strip(), text.replace(str(home), "HOME")))
    assert_texts("show", texts)


def test_programs_get_one_document(home: Path) -> None:
    publish(home)
    (person,) = show("u3")
    assert (person["pipeline"], person["edition"], person["interactions"]) == ("shop", 1, 13)
    assert person["history"][0] == {
        "time": "2017-07-14T03:02:00Z", "item": "i19", "title": None, "event": None,
    }  # fmt: skip
    listed = person["recommendations"]
    assert [entry["item"] for entry in listed] == [f"i{n:02}" for n in range(0, 20, 3)]
    assert {entry["because"] for entry in listed} == {"i01"}
    assert all(0 < entry["score"] < 1 for entry in listed)
    (item,) = show("--item i04")
    assert item["first_users"][0] == {"user_id": "u11", "rank": 2}
    neighbours = [(other["item"], other["users_with_both"]) for other in item["neighbours"]]
    assert neighbours[:6] == [(f"i{number:02}", 27) for number in (1, 7, 10, 13, 16, 19)]
    assert (len(neighbours), item["similar_items"]) == (10, None)
    (overview,) = show("")
    assert (overview["rows"], overview["users"], overview["example_user"]) == (267, 40, "u0")


def test_an_item_is_found_by_its_id_or_else_by_its_title(home: Path) -> None:
    names = ["Dark Wedding", "The dark, dark wedding", "Wedding", None, *["Ä. Dark"] * 16]
    publish(home, titles=dict(zip(ITEMS, names, strict=True)))
    (matches,) = show("--item 'DARK wedding'")
    assert (matches["pipeline"], matches["total"]) == ("shop", 2)
    assert [entry["item"] for entry in matches["items"]] == ["i00", "i01"]
    assert show("--item 'the wedding'")[0]["item"] == "i01"
    assert show("--item ä")[0]["total"] == 16
    assert show("--item i04")[0]["item"] == "i04"
    assert type_command("show --item weddings")[0] == 3


def test_an_item_is_shown_with_its_published_list(home: Path) -> None:
    publish(home)
    rows = {"item_id": ["i03", "i04", "i04"], "rank": [1, 1, 2],
            "similar_item_id": ["i07", "i02", "i09"], "score": [0.5, None, None]}  # fmt: skip
    publish_rows(open_list(home, "shop/similar_items"), pl.DataFrame(rows), subject="item")
    listed = [(row["rank"], row["item"]) for row in show("--item i04")[0]["similar_items"]]
    assert listed == [(1, "i02"), (2, "i09")]
    assert "Its published list" in type_command("show --item i04")[1]
    assert "it has none" in type_command("show --item i05")[1]
    # The list is not a list of users.
    assert len(show("u3")) == 1


def test_an_item_that_nobody_had_has_no_neighbours(home: Path) -> None:
    """Lists may have new items, and so have this item. The next id has neighbours."""
    files = publish(home)
    lines = files.storage.store.get(files.interactions).splitlines(keepends=True)
    other_lines = [line for line in lines if b",i04," not in line]
    files.storage.store.put(files.interactions, b"".join(other_lines))
    (item,) = show("--item i04")
    assert item["in_lists"] > 0
    assert (item["interactions"], item["neighbours"]) == (0, [])


def test_popular_items_that_personalize_added_are_named(home: Path) -> None:
    last = (pl.col("user_id") == "u0") & (pl.col("rank") >= 6)
    publish(home, has_score=~last, counts={"items_without_score": 2})
    ranks = [entry["rank"] for entry in show("u0")[0]["recommendations"] if entry["padding"]]
    assert ranks == [6, 7]
    assert "without a score: #6, #7." in type_command("show u0")[1]
    # A recipe without scores adds no column of scores.
    publish(home, "club", has_score=~last)
    assert not [
        entry for entry in show("u0 --pipeline club")[0]["recommendations"] if entry["padding"]
    ]


def test_kinds_of_events_are_shown_where_there_are_several(home: Path) -> None:
    files = publish(home)
    table = pl.read_csv(files.storage.store.get(files.interactions)).with_row_index()
    kinds = pl.when(pl.col("index") % 3 == 0).then(pl.lit("buy")).otherwise(pl.lit("view"))
    table = table.with_columns(EVENT_TYPE=kinds).drop("index")
    files.storage.store.put(files.interactions, table.write_csv().encode())
    assert {had["event"] for had in show("u3")[0]["history"]} == {"buy", "view"}


def test_all_pipelines_are_searched(home: Path) -> None:
    publish(home)
    publish(home, "club", users=["u3", "only"], items=["a", "b", "c"])
    assert [person["pipeline"] for person in show("u3")] == ["club", "shop"]
    assert [person["pipeline"] for person in show("only")] == ["club"]
    assert [person["pipeline"] for person in show("u3 --pipeline shop")] == ["shop"]
    assert [overview["users"] for overview in show("")] == [2, 40]


def test_nothing_is_created_where_nothing_is_published(home: Path) -> None:
    code, output = type_command("show u3")
    assert code == 3
    assert f"no recommendations in {home}/storage yet" in output
    assert not (home / "storage").exists()


# In a terminal


@pytest.mark.parametrize("no_color", ["", "1"], ids=["colours", "no colours"])
def test_a_narrow_terminal_gets_lines_that_fit(home: Path, no_color: str) -> None:
    publish(home, titles=dict.fromkeys(ITEMS, "A title that is too long for so narrow a terminal"))
    environment = {**NARROW, "NO_COLOR": no_color}
    for command in ("show u3", "show --item i04", "show --item title"):
        _, output = type_command(command, **environment)
        lines = COLOURS.sub("", output).splitlines()
        assert max(map(cell_len, lines)) <= 60, output
        assert "A title that is" in output
    assert "…" in type_command("show u3", **environment)[1]
    # The symbol of a verdict is clear without its colour.
    _, output = type_command("show", **environment)
    assert re.search("^[✓!✗] ", COLOURS.sub("", output), re.MULTILINE)
    assert bool(re.search("\x1b\\[[0-9;]*3[0-9]m", output)) is not bool(no_color)


@pytest.mark.attack
def test_a_strangers_text_is_shown_as_text(home: Path) -> None:
    wild = [
        "\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b2J",
        "[red]markup[/red] [link=http://x]x[/link] :smile:",
        "\u202eevil\u202c \u2066iso\u2069 \u200frtl\ufeff",
        "مرحبا بالعالم",
        "🎬👩‍👩‍👧‍👦 映画",
        "l" * 5000,
        "line\nbreak\ttab\r\u2028\u2029\x7f\x08",
        "\\x1b[31m {0} %s ${x}",
        *STRANGERS,
    ]
    # Ids have no line breaks, no NUL, and at most 256 characters.
    ids = [re.sub("[\n\r\x00]", "", text)[:256] for text in wild]
    publish(home, users=ids, items=ids, titles=dict(zip(ids, wild, strict=True)))
    shown = ""
    for user in ids:
        arguments = ["show", "--pipeline", "shop", "--", user]
        for environment in ({}, NARROW):
            result = CliRunner().invoke(main, arguments, env=environment)
            assert result.exit_code == 0, result.output
            assert_harmless(result.output)
            if environment:
                lines = COLOURS.sub("", result.output).splitlines()
                assert max(map(cell_len, lines)) <= 60
            else:
                shown += result.output
    for text in (
        "\\x1b[31mred",
        "[red]markup[/red]",
        ":smile:",
        "\\u202eevil",
        "مرحبا",
        "👩‍👩‍👧‍👦",
    ):
        assert text in shown
    result = CliRunner().invoke(main, ["show", "--item", ids[0]])
    assert result.exit_code == 0, result.output
    assert_harmless(result.output)
    assert_harmless(CliRunner().invoke(main, ["show", "--json", "--", ids[0]]).output)
    assert_harmless(CliRunner().invoke(main, ["show", "--item", "\x1b[2J"]).output)


def assert_harmless(text: str) -> None:
    """Require that no control characters but colours and line ends reach the terminal."""
    text = COLOURS.sub("", text)
    bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert set(bad) <= {"\n", "\u200d"}


def test_an_ascii_pipe_is_no_error(home: Path) -> None:
    publish(home, titles=dict.fromkeys(ITEMS, "Kraków 🎬"))
    result = CliRunner(charset="ascii").invoke(main, ["show", "u3"])
    assert result.exit_code == 0, result.output
    assert "Krak\\xf3w \\U0001f3ac" in result.output


# A person's list in an earlier edition


def at(day: int, hour: int = 3) -> datetime:
    return datetime(2026, 11, day, hour, 10, tzinfo=UTC)


@pytest.fixture
def past(home: Path) -> Files:
    """Return files of a project without lists, where Ann, Bob and Cat watched films."""
    watched = {"blade": 10, "comet": 18, "delta": 22}
    rows = [
        (user, film, at(day, 0)) for user in ("ann", "bob", "cat") for film, day in watched.items()
    ]
    # Bob and Cat have the film that Ann gets.
    rows += [(user, film, at(11)) for user in ("bob", "cat") for film in ("egret", "fjord")]
    # Eve has another film, so it is more than chance that Ann, Bob and Cat share their films.
    rows.append(("eve", "aside", at(10)))
    files = open_list(home, "shop")
    write_interactions(files, [(user, film, int(time.timestamp())) for user, film, time in rows])
    return files


def publish_film(files: Files, film: str, time: datetime, **facts: Any) -> None:
    """Publish an edition in which Ann and Bob get this film."""
    rows = [(user, 1, film, f"The {film}", 0.5) for user in ("ann", "bob")]
    names = ["user_id", "rank", "item_id", "title", "score"]
    until = int(at(time.day - 1, 0).timestamp())
    facts = {"made_at": time.isoformat(), "data_until": until, **facts}
    publish_rows(files, pl.DataFrame(rows, schema=names, orient="row"), **facts)


def test_a_persons_list_in_an_earlier_edition_is_shown(past: Files) -> None:
    publish_film(past, "egret", at(20))
    publish_film(past, "fjord", at(22))
    restore_edition(past, 1, at(22, 9))
    typed = ["ann --edition 1", "ann --edition 2", "ann --edition 9", "dan --edition 1"]
    answers = [type_command(f"show {arguments}") for arguments in typed]
    assert [code for code, _ in answers] == [0, 0, 3, 3]
    titles = [f"batchrec show {arguments}" for arguments in typed]
    texts = [output for _, output in answers]
    assert_texts("show_past", zip(titles, texts, strict=True))
    (second,) = show("ann --edition 2")
    assert second["edition"] == 2
    assert second["periods"] == [{"since": "2026-11-22T03:10:00Z", "until": "2026-11-22T09:10:00Z"}]
    # The history of the edition ends before the day of its publication.
    assert [entry["item"] for entry in second["history"]] == ["comet", "blade"]
    (entry,) = second["recommendations"]
    assert (entry["item"], entry["title"], entry["users_with_both"]) == ("fjord", "The fjord", 2)
    (first,) = show("ann --edition 1")
    assert (first["edition"], len(first["periods"])) == (1, 2)
    (now,) = show("ann")
    assert (now["edition"], now["periods"]) == (1, None)


def test_an_edition_that_is_no_longer_kept_says_when_it_was_live(past: Files) -> None:
    for day in (20, 21, 22):
        publish_film(past, "egret", at(day), keep=1)
    code, output = type_command("show ann --edition 1")
    assert (code, len(output.splitlines())) == (3, 1)
    assert "live from 2026-11-20 03:10 to 2026-11-21 03:10 UTC, and is no longer kept" in output
    assert "retention.editions: 2, 3" in output


def test_a_person_of_the_control_is_told_so(past: Files) -> None:
    # The experiment's name decides about the arms: Cat is in the control, Ann and Bob are not.
    experiment = {"name": "wind", "control_share": 0.5, "control": "none"}
    publish_film(past, "egret", at(20), experiment=experiment)
    write_absent(past, "v1", {"cat": None})
    publish_film(past, "fjord", at(21))
    assert show("cat --edition 1")[0]["arm"] == "control"
    assert "arm control" in type_command("show cat --edition 1")[1]
    assert show("ann --edition 2")[0]["arm"] is None


def test_why_is_not_known_where_nothing_explains_it_any_more(past: Files) -> None:
    publish_film(past, "egret", at(20), data_until=None)
    publish_film(past, "fjord", at(21))
    (unknown,) = show("ann --edition 1")
    assert [entry["because"] for entry in unknown["recommendations"]] == [None]
    assert "edition 1 does not say" in unknown["notes"][-1]
    delete_interactions(past)
    (gone,) = show("ann --edition 2")
    assert [entry["item"] for entry in gone["recommendations"]] == ["fjord"]
    assert "no longer there" in gone["notes"][-1]
