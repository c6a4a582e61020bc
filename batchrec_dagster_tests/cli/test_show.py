"""`batchrec show`: a user, an item or a summary from the storage; hostile data shown as text."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from batchrec_dagster.cli import main
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.errors import UserError
from batchrec_dagster.reporting import lookup
from batchrec_dagster.reporting.people import collect_people
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.report_counts import count_tables
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.reporting.show import format_text as as_text
from batchrec_dagster.reporting.terminal import escape_invisible
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.list_file import FOOTER_KEY, ListWriter
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.hostile import HOSTILE as STRANGERS
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow

START = 1_500_000_000
USERS = [f"u{number}" for number in range(40)]
ITEMS = [f"i{number:02}" for number in range(20)]
HOSTILE = [
    "\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b2J",
    "[red]markup[/red] [link=http://x]x[/link] :smile:",
    "\u202eevil\u202c \u2066iso\u2069 \u200frtl\ufeff",
    "مرحبا بالعالم",
    "🎬👩‍👩‍👧‍👦 映画",
    "l" * 5000,
    "line\nbreak\ttab\r\u2028\u2029\x00\x7f\x08",
    "\\x1b[31m {0} %s ${x}",
    *STRANGERS,
]


def publish(
    root: Path,
    pipeline: str = "shop",
    *,
    users: Sequence[str] = USERS,
    items: Sequence[str] = ITEMS,
    titles: Sequence[str | None] | None = None,
    rows_of_a_group: int = 100,
    **about: Any,
) -> Storage:
    """Write what a run leaves: everyone has two items of three, and gets the others."""
    folder = root / "storage" / pipeline
    for part in ("curated/recommendations", "transformed/interactions", "transformed/item_titles"):
        (folder / part).mkdir(parents=True)
    chance = random.Random(0)
    had = [
        (user, item, START + 60 * (i + j))
        for i, user in enumerate(users)
        for j, item in enumerate(items)
        if (i + j) % 3
    ]
    # Others have something else alone: so it is more than chance that the users share their items.
    had += [(f"other {number}", "aside", START) for number in range(len(users))]
    pl.DataFrame(had, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row").write_csv(
        folder / "transformed/interactions/interactions.csv"
    )
    lists = [
        (user, rank, item, chance.random())
        for i, user in enumerate(users)
        for rank, item in enumerate(
            [candidate for j, candidate in enumerate(items) if not (i + j) % 3], 1
        )
    ]
    frame = pl.DataFrame(
        lists,
        schema={"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float64},
        orient="row",
    ).sort("user_id", maintain_order=True)
    made_at = datetime.now(UTC).isoformat()
    edition = make_edition({"made_at": made_at, **about})
    pq.write_table(
        frame.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata(
            {FOOTER_KEY: edition.model_dump_json()}
        ),
        folder / "curated/recommendations/recommendations.parquet",
        row_group_size=rows_of_a_group,
    )
    if titles is not None:
        pl.DataFrame({"item_id": list(items), "title": titles}).write_parquet(
            folder / "transformed/item_titles/item_titles.parquet"
        )
    return open_storage(root)


def open_storage(root: Path) -> Storage:
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(root)})
    storage: Storage = deployment.open_storage()
    return storage


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, without a Dagster instance."""
    monkeypatch.setenv("BATCHREC_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["show", *arguments])
    return result.exit_code, result.output


def show_pipelines(*arguments: str) -> list[dict[str, Any]]:
    code, output = show(*arguments, "--json")
    assert code == 0, output
    pipelines: list[dict[str, Any]] = json.loads(output)["pipelines"]
    return pipelines


# What is typed after `batchrec show`, and its exit code.
COMMANDS = [
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


def test_what_is_shown_on_a_terminal(home: Path) -> None:
    publish(home, titles=[f"Item, no. {number}" for number in range(20)])
    # A user without a list, and one without a history.
    file = home / "storage/shop/transformed/interactions/interactions.csv"
    file.write_text(file.read_text().replace("u0,", "new,"))
    texts = []
    for arguments, expected_code in COMMANDS:
        code, output = show(*shlex.split(arguments))
        assert code == expected_code, output
        assert "\x1b" not in output
        assert not re.search("[│┃━─]", output)
        text = re.sub(r"made \d{4}-\d\d-\d\d \d\d:\d\d", "made TIME", output)
        texts.append((f"batchrec show {arguments}".strip(), text.replace(str(home), "HOME")))
    assert_texts("show", texts)


def test_explanations_are_those_of_the_report(home: Path) -> None:
    published_results = PublishedResults(publish(home), "shop")
    for user in ("u0", "u7"):
        found_user = lookup.find_user(published_results, user)
        assert found_user is not None
        with published_results.open_interactions() as (interactions, _):
            table = home / "storage/shop/curated/recommendations/recommendations.parquet"
            tables = RunTables(interactions, pl.scan_parquet(table), pl.LazyFrame())
            report = collect_people(tables, count_tables(tables))
        (reported_person,) = [person for person in report.people if person[0] == user]
        ids = [item[0] for item in report.items]
        flat = iter(reported_person[3])
        assert [
            (recommendation.item, recommendation.because, recommendation.users_with_both)
            for recommendation in found_user.recommendations
        ] == [
            (ids[item], ids[because], shared_users)
            for item, because, shared_users in zip(flat, flat, flat, strict=True)
        ]


def test_programs_get_one_json_document(home: Path) -> None:
    publish(home)
    (pipeline,) = show_pipelines("u3")
    assert pipeline["pipeline"] == "shop"
    assert pipeline["interactions"] == 13
    assert pipeline["history"][0] == {
        "time": "2017-07-14T03:02:00Z", "item": "i19", "title": None, "event": None,
    }  # fmt: skip
    assert [recommendation["item"] for recommendation in pipeline["recommendations"]] == [
        f"i{n:02}" for n in range(0, 20, 3)
    ]
    assert {recommendation["because"] for recommendation in pipeline["recommendations"]} == {"i01"}
    assert all(0 < recommendation["score"] < 1 for recommendation in pipeline["recommendations"])


def test_an_item_shows_its_lists_and_similar_items(home: Path) -> None:
    publish(home)
    (pipeline,) = show_pipelines("--item", "i04")
    assert pipeline["first_users"][0] == {"user_id": "u11", "rank": 2}
    similar = [(other["item"], other["users_with_both"]) for other in pipeline["neighbours"]]
    assert similar[:6] == [(f"i{number:02}", 27) for number in (1, 7, 10, 13, 16, 19)]
    assert len(similar) == 10


def test_items_are_found_by_words_of_their_titles(home: Path) -> None:
    titles = ["Dark Wedding", "The dark, dark wedding", "Wedding", None, *["Ä. Dark"] * 16]
    publish(home, titles=titles)
    (pipeline,) = show_pipelines("--item", "DARK wedding")
    assert pipeline == {
        "pipeline": "shop",
        "text": "DARK wedding",
        "total": 2,
        "items": [
            {"item": "i00", "title": "Dark Wedding"},
            {"item": "i01", "title": "The dark, dark wedding"},
        ],
    }
    (pipeline,) = show_pipelines("--item", "the wedding")
    assert pipeline["item"] == "i01"
    (pipeline,) = show_pipelines("--item", "ä")
    assert (pipeline["total"], len(pipeline["items"])) == (16, 16)
    # An id comes first.
    (pipeline,) = show_pipelines("--item", "i04")
    assert pipeline["item"] == "i04"
    assert show("--item", "weddings")[0] == 3


def test_an_item_shows_its_published_list_of_similar_items(home: Path) -> None:
    publish(home)
    (pipeline,) = show_pipelines("--item", "i04")
    assert pipeline["similar_items"] is None
    folder = home / "storage/shop/lists/similar_items/curated/similar_items"
    folder.mkdir(parents=True)
    rows = {"item_id": ["i03", "i04", "i04"], "rank": [1, 1, 2],
            "similar_item_id": ["i07", "i02", "i09"], "score": [0.5, None, None]}  # fmt: skip
    with ListWriter(folder / "similar_items.parquet") as writer:
        writer.write(pl.DataFrame(rows).to_arrow())
        writer.finish(make_edition({"number": 1, "version": "v1"}))
    (pipeline,) = show_pipelines("--item", "i04")
    listed = [(row["rank"], row["item"]) for row in pipeline["similar_items"]]
    assert listed == [(1, "i02"), (2, "i09")]
    assert "Its published list (similar_items)" in show("--item", "i04")[1]
    assert "it has none" in show("--item", "i05")[1]
    # It is no list of users: these are shown as before.
    assert len(show_pipelines("u3")) == 1


def test_items_without_a_score_are_marked_where_personalize_added_them(home: Path) -> None:
    storage = publish(home)
    frame = pl.read_parquet(home / "storage/shop/curated/recommendations/recommendations.parquet")
    last = (pl.col("user_id") == "u0") & (pl.col("rank") >= 6)
    lists = frame.with_columns(score=pl.when(~last).then("score"))
    for padding in (0, 2):  # 0: a recipe that gives no scores
        about = {
            "number": padding + 1,
            "version": f"v{padding}",
            "counts": {"items_without_score": padding},
        }
        with ListWriter(home / "lists.parquet") as writer:
            writer.write(lists.to_arrow(compat_level=pl.CompatLevel.oldest()))
            writer.finish(make_edition({**about, "made_at": "2026-05-01T03:00:00+00:00"}))
        ListFiles(storage, ListKeys("shop")).editions.publish(writer.path, 0, ALONE)
        [pipeline] = show_pipelines("u0")
        padding_ranks = [item["rank"] for item in pipeline["recommendations"] if item["padding"]]
        assert padding_ranks == ([6, 7] if padding else [])
        note = "Popular items that Personalize added, without a score: #6, #7."
        assert (note in show("u0")[1]) is bool(padding)


def test_kinds_of_events_are_shown_where_there_are_several(home: Path) -> None:
    publish(home)
    file = home / "storage/shop/transformed/interactions/interactions.csv"
    frame = pl.read_csv(file).with_row_index()
    kinds = pl.when(pl.col("index") % 3 == 0).then(pl.lit("buy")).otherwise(pl.lit("view"))
    frame.drop("index").with_columns(EVENT_TYPE=frame.select(kinds).to_series()).write_csv(file)
    assert {had["event"] for had in show_pipelines("u3")[0]["history"]} == {"buy", "view"}
    assert "when (UTC)        event  item" in show("u3")[1]


def test_what_does_not_exist_is_an_error_with_its_exit_code(home: Path) -> None:
    assert show("u3") == (
        3,
        f"Error: no recommendations in {home}/storage yet. Make them with `batchrec run`, or set"
        " BATCHREC_STORAGE to where they are\n",
    )
    assert not (home / "storage").exists()
    publish(home)
    assert show("--item", "\x1b[2J")[0] == 3
    assert "\x1b" not in show("--item", "\x1b[2J")[1]
    assert show("u3", "u4")[0] == 2
    (home / "storage/shop/curated/recommendations/recommendations.parquet").write_bytes(b"PAR1")
    code, output = show("u3")
    assert code == 1
    assert "recommendations.parquet" in output


def test_lists_are_shown_where_dagsters_history_cannot_be_opened(home: Path) -> None:
    publish(home)
    (home / "dagster/schedules/schedules.db").mkdir(parents=True)
    result = CliRunner().invoke(main, ["show"])
    assert result.exit_code == 0, result.output
    assert "table" in result.stdout
    message = f"cannot open Dagster's history of {home}/dagster: unable to open database file"
    assert f"Shown without the runs: {message}" in result.stderr
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 1
    assert f"Error: {message}" in result.stderr


def test_all_pipelines_are_searched(home: Path) -> None:
    publish(home)
    publish(home, "club", users=["u3", "only"], items=["a", "b", "c"])
    assert [pipeline["pipeline"] for pipeline in show_pipelines("u3")] == ["club", "shop"]
    assert [pipeline["pipeline"] for pipeline in show_pipelines("only")] == ["club"]
    assert [pipeline["pipeline"] for pipeline in show_pipelines("u3", "--pipeline", "shop")] == [
        "shop"
    ]
    assert [pipeline["users"] for pipeline in show_pipelines()] == [2, 40]


def test_the_summary_needs_no_dagster_instance(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "normalized_discounted_cumulative_gain_at_25"
    popularity = {"days": 30, "users": 50, "ndcg": 0.1, "margin": None}
    publish(home, metrics={name: 0.2}, recent_popularity=popularity)
    code, output = show()
    assert code == 0
    assert "NDCG@25       0.2000, compared with 0.1000 for the most popular items" in output
    assert "lists         267 recommendations for 40 users" in output
    assert "try           batchrec show u0\n" in output
    monkeypatch.setenv("DAGSTER_HOME", str(home / "nowhere"))
    code, output = show()
    assert code == 1
    assert "nowhere" in output


def test_a_published_table_says_what_it_is(home: Path) -> None:
    storage = publish(home)
    frame = pl.read_parquet(home / "storage/shop/curated/recommendations/recommendations.parquet")
    name = "normalized_discounted_cumulative_gain_at_25"
    about = {"number": 7, "version": "new", "made_at": "2026-05-01T03:00:00+00:00"}
    with ListWriter(home / "lists.parquet") as writer:
        for rows in (frame.head(100), frame.tail(-100)):
            writer.write(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        writer.finish(make_edition({**about, "metrics": {name: 0.3}}))
    ListFiles(storage, ListKeys("shop")).editions.publish(writer.path, 0, ALONE)
    (summary,) = show_pipelines()
    assert (summary["rows"], summary["users"], summary["edition"]) == (267, 40, 7)
    assert (summary["made"], summary["ndcg_at_25"]) == ("2026-05-01T03:00:00Z", 0.3)
    assert "(edition 7)" in show()[1]
    for user in frame.get_column("user_id").unique():
        (pipeline,) = show_pipelines(user)
        items = [recommendation["item"] for recommendation in pipeline["recommendations"]]
        assert items == frame.filter(pl.col("user_id") == user).get_column("item_id").to_list()
    assert show_pipelines("--item", "i04")[0]["in_lists"] == 13


def test_the_deployment_is_found_in_the_env_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home / "elsewhere")
    monkeypatch.setenv("BATCHREC_STORAGE", "overwritten")
    (home / ".env").write_text(f"BATCHREC_STORAGE={home}/elsewhere/storage\n")
    assert show("u3")[0] == 0
    (home / ".env").write_text("BATCHREC_STORAGE=ftp://x\n")
    assert show("u3")[0] == 1


@pytest.mark.attack
def test_hostile_data_is_shown_as_text(home: Path) -> None:
    # Ids have no line breaks and no NUL, and 256 characters at most.
    ids = [re.sub("[\n\r\x00]", "", text)[:256] for text in HOSTILE]
    storage = publish(home, users=ids, items=ids, titles=HOSTILE)
    output = ""
    for user in ids:
        found_user = lookup.find_user(PublishedResults(storage, "shop"), user)
        assert found_user is not None
        assert_harmless(as_text(found_user, None, with_runs=True))
        narrow_text = as_text(found_user, 40, with_runs=True)
        assert_harmless(narrow_text)
        widths = [
            cell_len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in narrow_text.splitlines()
        ]
        assert max(widths) <= 40
        output += as_text(found_user, 1_000, with_runs=True)
    for text in (
        "\\x1b[31mred",
        "[red]markup[/red]",
        ":smile:",
        "\\u202eevil",
        "مرحبا",
        "👩‍👩‍👧‍👦",
    ):
        assert text in output
    item = lookup.find_item(PublishedResults(storage, "shop"), ids[0])
    assert item is not None
    for width in (None, 40):
        assert_harmless(as_text(item, width, with_runs=True))
    assert_harmless(show(ids[0], "--json")[1])
    assert_harmless(show()[1])


def assert_harmless(text: str) -> None:
    """Checks that nothing but colours and line ends reaches the terminal."""
    text = re.sub("\x1b\\[[0-9;]*m", "", text)
    bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert set(bad) <= {"\n", "\u200d"}


@given(st.text(st.characters()))
@settings(deadline=None)
def test_no_text_reaches_the_terminal_raw(text: str) -> None:
    escaped_text = escape_invisible(text)
    assert not [c for c in escaped_text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", escaped_text)
    assert escape_invisible(escaped_text) == escaped_text


def test_an_ascii_pipe_is_no_error(home: Path) -> None:
    publish(home, titles=["Kraków 🎬"] * 20)
    result = CliRunner(charset="ascii").invoke(main, ["show", "u3"])
    assert result.exit_code == 0
    assert "Krak\\xf3w \\U0001f3ac" in result.output


def test_of_a_large_table_in_s3_only_a_part_is_read_for_one_user(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user-{number:05}" for number in range(4_000)]
    items = [f"item-{number:02}" for number in range(75)]
    publish(tmp_path, users=users, items=items, rows_of_a_group=5_000)
    environment = {
        "BATCHREC_STORAGE": f"s3://{s3.create_bucket()}/lists",
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
        "AWS_ACCESS_KEY_ID": OWNER.access,
        "AWS_SECRET_ACCESS_KEY": OWNER.secret,
        "AWS_REGION": "us-east-1",
    }
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    storage: Storage = Deployment.from_environment(environment).open_storage()
    folder = tmp_path / "storage"
    for path in folder.rglob("*.*"):
        storage.store.put(storage.uri(str(path.relative_to(folder))), path)
    bytes_read = 0
    fetch = ObjectStore.read_range

    def read_and_count(store: ObjectStore, uri: str, start: int, length: int, etag: str) -> bytes:
        nonlocal bytes_read
        bytes_read += length
        return fetch(store, uri, start, length, etag)

    monkeypatch.setattr(ObjectStore, "read_range", read_and_count)
    (pipeline,) = show_pipelines("user-02345")
    assert len(pipeline["recommendations"]) == 25
    size = (folder / "shop/curated/recommendations/recommendations.parquet").stat().st_size
    assert 0 < bytes_read < size / 5
    uri = storage.uri("shop/curated/recommendations/recommendations.parquet")
    found_there = storage.store.head(uri)
    assert found_there is not None
    storage.store.put(uri, b"another")
    with pytest.raises(UserError, match="was replaced while this run read it"):
        fetch(storage.store, uri, 0, 3, found_there.etag)


def test_a_terminal_gets_colours_and_lines_as_wide_as_it_is(home: Path) -> None:
    publish(home, titles=["A title that is too long for so narrow a terminal"] * 20)
    controller, terminal = pty.openpty()
    command = [str(Path(sys.executable).parent / "batchrec"), "show", "u3"]
    environment = {**os.environ, "COLUMNS": "60", "LINES": "50", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=terminal, env=environment) as process:
        os.close(terminal)
        output = b""
        # The end of a terminal is an error on Linux.
        with contextlib.suppress(OSError):
            while piece := os.read(controller, 65_536):
                output += piece
    os.close(controller)
    assert process.returncode == 0
    lines = output.decode().replace("\r\n", "\n").splitlines()
    assert lines[0] == "\x1b[1mUser u3 in shop\x1b[0m"
    plain_lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in lines]
    assert max(map(cell_len, plain_lines)) <= 60
    assert any(re.fullmatch("─+", line) for line in plain_lines)
    assert any("A title that is" in line and "…" in line for line in plain_lines)


def test_the_end_of_a_run_imports_nothing_that_could_be_imported_while_it_ran(
    tmp_path: Path,
) -> None:
    publish(tmp_path)
    script = (
        "import sys; from types import SimpleNamespace as fake\n"
        "from batchrec_dagster.cli import run_result, watched_run\n"
        "watched_run._import_for_conclusion(); before = {*sys.modules}\n"
        "lines = run_result.describe_result('shop', fake(run_id='r'), fake(warnings=[]), '1 s')\n"
        "print(*lines, sep='\\n')\n"
        "print('imported:', *sorted({*sys.modules} - before))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"BATCHREC_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    assert "267 recommendations for 40 users" in output
    modules = output.partition("imported: ")[2].split()
    assert not {"batchrec_dagster", "pandas", "jinja2"} & {
        module.split(".")[0] for module in modules
    }
