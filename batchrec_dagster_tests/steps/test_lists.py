"""The table of everyone's list, made a piece at a time, is the one that is made at once."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrec_dagster.deployment import resources
from batchrec_dagster.personalize.file_formats import format_inference_line, read_inference
from batchrec_dagster.personalize.schemas import FILTER_HISTORY
from batchrec_dagster.steps.batch_jobs import JobOutput, read_ahead, split_at_lines
from batchrec_dagster.steps.list_builder import ListBuilder, ListInputs
from batchrec_dagster.steps.seen_items import SeenItems
from batchrec_dagster.storage.published_table import TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import Project, declaration, metadata, refresh, table

ITEMS = ["1", "2", "3", "é", "5"]
users = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), unique=True)
lists_of_items = st.lists(st.sampled_from(ITEMS), max_size=5)
Row = tuple[str, int, str, float | None]


@given(chunks=st.lists(st.binary(max_size=6) | st.just(b"\n")), size=st.integers(0, 8))
def test_lines_are_cut_where_they_end(chunks: list[bytes], size: int) -> None:
    pieces = list(split_at_lines(chunks, size))
    assert b"".join(pieces) == b"".join(chunks)
    assert pieces
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])


def test_a_piece_is_read_while_the_one_before_is_in_use() -> None:
    is_second_read = Event()

    def read_pieces() -> Iterator[pl.DataFrame]:
        for number in range(3):
            if number == 1:
                is_second_read.set()
            yield pl.DataFrame({"number": [number]})
        raise ValueError("the rest is damaged")

    pieces = read_ahead(read_pieces())
    assert next(pieces).item() == 0
    assert is_second_read.wait(timeout=60)
    assert [next(pieces).item(), next(pieces).item()] == [1, 2]
    with pytest.raises(ValueError, match="damaged"):
        next(pieces)


def build_plainly(
    answers: list[tuple[str, list[str]]], seen_pairs: set[tuple[str, str]] | None, num_results: int
) -> list[Row]:
    rows: list[Row] = []
    for user, items in answers:
        unseen_items = [
            (place, item)
            for place, item in enumerate(items)
            if seen_pairs is None or (user, item) not in seen_pairs
        ]
        for rank, (place, item) in enumerate(unseen_items[:num_results], 1):
            rows.append((user, rank, item, place / 8))
    return rows


@st.composite
def batches(draw: st.DrawFn) -> Any:
    user_ids = draw(users)
    answers = [(user, draw(lists_of_items)) for user in draw(st.permutations(user_ids))]
    pairs = st.tuples(st.sampled_from([*user_ids, "no one"]), st.sampled_from([*ITEMS, "6"]))
    seen_pairs = draw(st.none() | st.lists(pairs))
    return user_ids, answers, seen_pairs, draw(st.integers(1, 4)), draw(st.integers(1, 5))


@pytest.mark.slow
@settings(deadline=None)
@given(batch=batches())
def test_a_piece_at_a_time_is_as_good_as_all_at_once(batch: Any) -> None:
    user_ids, answers, seen_pairs, num_results, rows_at_once = batch
    lines = [
        format_inference_line({"userId": user}, items, [place / 8 for place in range(len(items))])
        for user, items in answers
    ]
    pieces = [
        read_inference("\n".join(lines[start : start + rows_at_once]).encode())
        for start in range(0, max(1, len(lines)), rows_at_once)
    ]
    everyone = pl.Series(user_ids, dtype=pl.String)
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    interactions = pl.LazyFrame(seen_pairs or [], schema=schema, orient="row")
    builder = ListBuilder(
        ListInputs(num_results, None if seen_pairs is None else SeenItems(interactions, everyone))
    )
    with tempfile.TemporaryDirectory() as folder:
        with TableWriter(Path(folder) / "lists.parquet") as writer:
            builder.write(pieces, writer)
        table = pl.read_parquet(writer.path)
    expected = build_plainly(answers, None if seen_pairs is None else set(seen_pairs), num_results)
    assert table.rows() == expected
    assert table.schema == {
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "score": pl.Float64,
    }
    rows_unfiltered = build_plainly(answers, None, 99)
    pairs_offered = {(user, item) for user, _, item, _ in rows_unfiltered}
    assert builder.dropped == sum(
        (row[0], row[2]) in set(seen_pairs or []) for row in rows_unfiltered
    )
    assert builder.rows == len(expected)
    assert builder.users == len({row[0] for row in expected})
    assert sorted(builder.items) == sorted({row[2] for row in expected})
    assert builder.sample.equals(table.head(5))
    checks = {check.name: check for check in builder.checks(everyone, filtered=False)}
    assert checks["every_user_answered"].passed is bool(expected)
    assert checks["no_failed_users"].passed
    duplicates = len(expected) - len({(row[0], row[2]) for row in expected})
    assert checks["no_duplicates"].finding.startswith(f"{duplicates:,} items")
    assert ("no_seen_items" in checks) is (seen_pairs is not None)
    assert seen_pairs is None or checks["no_seen_items"].passed
    full = sum(rank == num_results for _, rank, _, _ in expected)
    assert checks["lists_full"].finding.startswith(f"{full:,} of {len(user_ids):,}")
    assert pairs_offered or not expected


@given(pairs=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(ITEMS))))
def test_what_is_seen_is_known_of_those_who_are_asked_about(pairs: list[tuple[str, str]]) -> None:
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    interactions = pl.LazyFrame(pairs, schema=schema, orient="row")
    seen_items = SeenItems(interactions, pl.Series(["b", "a", "z"]))
    candidates = [(user, item) for user in "abz" for item in [*ITEMS, "unknown"]]
    table = pl.DataFrame(candidates, schema=["user_id", "item_id"], orient="row")
    assert seen_items.contain(table).to_list() == [pair in pairs for pair in candidates]
    assert seen_items.longest == max(len({i for u, i in pairs if u == user}) for user in "ab")


ANSWERS = ["list", "list", "list", "error", "twice", "missing", "duplicate"]
# For each requested user what the output has; then the users of further lines, and a share.
WildOutput = tuple[list[str], list[str]]
wild_output = st.tuples(
    st.lists(st.sampled_from(ANSWERS), max_size=6),
    st.lists(st.sampled_from(["stranger", "nobody"]), max_size=1),
)


def write_wild_lines(name: str, output: WildOutput) -> list[str]:
    """The lines of an output for the users NAME0, NAME1, ..., which have ITEMS."""
    lines = []
    answers, strangers = output
    for place, answer in enumerate(answers):
        request = {"userId": f"{name}{place}"}
        if answer == "error":
            lines.append(format_inference_line(request, ITEMS, error="Service error"))
        elif answer != "missing":
            items = [ITEMS[0], *ITEMS] if answer == "duplicate" else ITEMS
            lines += [format_inference_line(request, items)] * (2 if answer == "twice" else 1)
    return lines + [format_inference_line({"userId": user}, ITEMS) for user in strangers]


@pytest.mark.slow
@given(
    outputs=st.lists(wild_output, min_size=1, max_size=2),
    max_share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    lines_at_once=st.integers(1, 9),
    random=st.randoms(use_true_random=False),
)
@example(outputs=[(["list"] * 4 + ["error"], [])], max_share=0.2, lines_at_once=2, random=None)
@example(outputs=[(["error"], []), (["list"], [])], max_share=0.5, lines_at_once=2, random=None)
def test_wild_outputs_are_published_without_few_failed_users_or_rejected(
    outputs: list[WildOutput], max_share: float, lines_at_once: int, random: random.Random | None
) -> None:
    builder = ListBuilder(ListInputs(len(ITEMS), max_failed_share=max_share))
    requested = []
    with tempfile.TemporaryDirectory() as folder:
        with TableWriter(Path(folder) / "lists.parquet") as writer:
            for name, output in zip("ab", outputs, strict=False):
                lines = write_wild_lines(name, output)
                if random is not None:
                    random.shuffle(lines)
                pieces = [
                    read_inference("\n".join(lines[start : start + lines_at_once]).encode())
                    for start in range(0, max(1, len(lines)), lines_at_once)
                ]
                builder.write(pieces, writer)
                users = [f"{name}{place}" for place in range(len(output[0]))]
                requested.append(pl.Series("user_id", users, pl.String))
        table = pl.read_parquet(writer.path)
    everyone = pl.concat(requested)
    built = builder.finish(everyone, filtered=False)

    def has_few_errors(answers: list[str], lines: int) -> bool:
        errors = answers.count("error")
        return not errors or (errors < lines and errors <= max_share * lines)

    all_answers = [answer for answers, _ in outputs for answer in answers]
    lines_count = sum(len(write_wild_lines("a", output)) for output in outputs)
    few_errors = has_few_errors(all_answers, lines_count)
    is_whole = all(
        not strangers and not {"missing", "twice", "duplicate"} & {*answers}
        for answers, strangers in outputs
    )
    failed = all_answers.count("error")
    is_passed = is_whole and few_errors and bool(table.height)
    assert any(check.blocks for check in built.checks) is not is_passed
    assert built.counts.failed_users == built.failed.height == failed
    # A line with an error gives no rows, even if it has items.
    assert not {*built.failed["user_id"]} & {*table["user_id"]}
    if is_passed:
        listed_users = {*everyone} - {*built.failed["user_id"]}
        assert {*table["user_id"]} == listed_users
        assert table.height == len(listed_users) * len(ITEMS)
        assert all(check.passed for check in built.checks)


def test_a_line_that_failed_is_reported_from_whichever_piece_it_is_in() -> None:
    builder = ListBuilder(ListInputs(2))
    for user, error in [("a", None), ("b", "User error"), ("c", "other"), ("a", None)]:
        line = format_inference_line({"userId": user}, [] if error else ["1"], error=error)
        builder.add(read_inference(line.encode()))
    everyone, failed_lines, *_ = builder.checks(pl.Series(["a", "b", "c", "d"]), filtered=False)
    assert everyone.finding.startswith("3 of 4 users have a result; 1 missing")
    assert everyone.finding.endswith("1 results are repeated")
    assert failed_lines.finding.startswith("2 of 4 users failed (at most 0 % may: ")
    assert failed_lines.finding.endswith("; the first: User error")


def test_items_without_a_score_are_kept_counted_and_null_in_the_table() -> None:
    lines = [
        '{"input":{"userId":"a"},"output":{"recommendedItems":["1","2","3"],"scores":[0.5]}}',
        '{"input":{"userId":"b"},"output":{"recommendedItems":["1, NaN","2"],"scores":[0.5,NaN]}}',
        '{"input":{"userId":"c"},"output":{"recommendedItems":["1"],"scores":[0.5,0.25]}}',
        '{"input":{"userId":"d"},"output":{"recommendedItems":["4"],"scores":null}}',
        '{"input":{"userId":"e"},"output":{"recommendedItems":["4"],"reasons":["popular"]}}',
    ]
    builder = ListBuilder(ListInputs(3))
    table = builder.add(read_inference("\n".join(lines).encode()))
    assert table.select("user_id", "item_id", "score").rows() == [
        ("a", "1", 0.5),
        ("a", "2", None),
        ("a", "3", None),
        ("b", "1, NaN", 0.5),
        ("b", "2", None),
        ("c", "1", 0.5),
        ("d", "4", None),
        ("e", "4", None),
    ]
    assert builder.items_without_score == 5
    *_, full = builder.checks(pl.Series([*"abcde"]), filtered=True)
    assert full.numbers["padding"] == 5
    assert "5 items without a score are popular ones" in full.finding
    with pytest.raises(ValueError, match="not a batch inference output file"):
        read_inference(b'{"input": NaN')

    popular = ListBuilder(ListInputs(3))
    popular.add(read_inference(format_inference_line({"userId": "a"}, ["1", "2"]).encode()))
    assert popular.items_without_score == 0


@pytest.fixture
def storage(tmp_path: Path) -> StorageResource:
    return StorageResource(root=str(tmp_path), s3=S3Connection())


def test_all_files_are_read_in_order_and_an_empty_one_too(storage: StorageResource) -> None:
    folder = storage.uri("out/")
    job = {"jobOutput": {"s3DataDestination": {"path": folder}}}
    for name, content in [("b.out", b""), ("c.out", b""), ("ignored.txt", b"{")]:
        storage.store.put(folder + name, content)
    assert [piece.height for piece in JobOutput(storage, job).pieces(read_inference)] == [0, 0]
    for name, user in [("b.out", "1"), ("a.out", "2")]:
        line = json.dumps({"input": {"userId": user}, "output": None, "error": "no"}) + "\n"
        storage.store.put(folder + name, line.encode())
    pieces = pl.concat(JobOutput(storage, job).pieces(read_inference))
    assert pieces.get_column("user_id").to_list() == ["2", "1"]


@pytest.mark.slow
def test_long_histories_make_no_answer_longer_unless_filters_forget_them(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users with more than the 100 interactions that AWS's filter considers."""
    chance = random.Random(0)
    rows = [
        f"{user},{item},5,{1_500_000_000 + chance.randrange(10**7)}"
        for user in range(30)
        for item in chance.sample(range(300), 120 + user)
    ]
    source = project.root / "ratings.csv"
    source.write_text("\n".join(["userId,movieId,rating,timestamp", *rows]) + "\n")
    seen_pairs = {tuple(row.split(",")[:2]) for row in rows}
    project.declare(declaration("shop", source, recommendations={"num_results": 25}))

    whole = refresh(project, "shop", instance)
    assert whole.success
    assert metadata(whole, "recommendations")["results_asked_for"] == 25
    assert metadata(whole, "recommendations")["seen_items_dropped"] == 0
    lists = table(project, "shop")
    assert lists.height == 30 * 25
    assert not seen_pairs & set(lists.select("user_id", "item_id").rows())

    # As on AWS, the longest history has 149 items. The lists drop what the filter leaves of it.
    monkeypatch.setattr(resources, "ALL_INTERACTIONS", FILTER_HISTORY)
    project.declare(declaration("shop", source, recommendations={"num_results": 24}))
    part = refresh(project, "shop", instance)
    assert part.success
    assert metadata(part, "recommendations")["results_asked_for"] == 24 + 49
    assert metadata(part, "recommendations")["seen_items_dropped"] > 0
    rows_expected = lists.filter(pl.col("rank") <= 24)
    assert table(project, "shop").drop("score").equals(rows_expected.drop("score"))
