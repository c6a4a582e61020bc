"""Every check, with data that hold and data that break it."""

from datetime import UTC, datetime

import polars as pl
import pytest

from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.steps import checks
from batchrec_dagster.steps.list_checks import check_no_duplicates
from batchrec_dagster.steps.publish import read_checks
from batchrec_dagster.storage.edition import Edition, Finding
from batchrec_dagster_tests.guard.seams.editions import make_edition

SHORT = Finding("lists_full", "watch", "1 of 2 users have all 2 items")
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def build_interactions(
    users: int, rows_per_user: int, *, time: int = 1_500_000_000
) -> pl.LazyFrame:
    rows = [(str(user), str(item), time) for user in range(users) for item in range(rows_per_user)]
    return pl.LazyFrame(rows, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")


def check_enough(interactions: pl.LazyFrame) -> Finding:
    counts = count_rows(interactions)
    rows = interactions.select(pl.len()).collect().item()
    return checks.check_enough_interactions(rows, counts.users, counts.users_with_two)


def check_plausible(interactions: pl.LazyFrame, unit: str) -> Finding:
    counts = count_rows(interactions)
    return checks.check_timestamps_plausible(counts.earliest, counts.latest, unit, NOW)


def test_enough_interactions() -> None:
    assert check_enough(build_interactions(25, 40)).passed


@pytest.mark.parametrize(
    ("users", "rows_per_user", "lonely", "finding"),
    [
        (25, 39, 0, "975 interactions of 25 users, 25 of them"),
        (24, 50, 0, "1,200 interactions of 24 users, 24 of them"),
        (25, 50, 2500, "3,750 interactions of 2,525 users, 25 of them"),
    ],
    ids=["too few interactions", "too few users", "less than 1 % of the users"],
)
def test_too_few_interactions(users: int, rows_per_user: int, lonely: int, finding: str) -> None:
    lonely_users = pl.LazyFrame(
        {
            "USER_ID": [f"lonely {user}" for user in range(lonely)],
            "ITEM_ID": ["1"] * lonely,
            "TIMESTAMP": [1_500_000_000] * lonely,
        },
        schema={"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64},
    )
    check = check_enough(pl.concat([build_interactions(users, rows_per_user), lonely_users]))
    assert not check.passed
    assert check.text.startswith(finding)
    assert check.text.endswith("with two or more. Provide more data")


def test_ratings_below_the_minimum_could_be_enough() -> None:
    finding = checks.check_enough_interactions(975, 25, 25, low_ratings=1_200).text
    assert finding.endswith(" or lower interactions.min_rating: 1,200 ratings are below it")


def test_no_interactions_at_all_fail_both_checks() -> None:
    no_interactions = build_interactions(1, 1).filter(pl.lit(value=False))
    assert not check_enough(no_interactions).passed
    assert not check_plausible(no_interactions, "s").passed


@pytest.mark.parametrize(
    ("time", "unit", "is_passed", "finding"),
    [
        (1_500_000_000, "s", True, "from 2017-07-14 to 2017-07-14, with times in s"),
        (1_500_000_000_000, "s", False, "ratings.timestamp_unit: ms"),
        (1_500_000, "ms", False, "ratings.timestamp_unit: s"),
        (int(NOW.timestamp()) + 7 * 86400, "s", False, "between 1980 and now"),
        (9_000_000_000_000_000_000, "s", False, "the year 285,"),
    ],
    ids=["seconds", "milliseconds", "seconds as milliseconds", "next week", "nonsense"],
)
def test_timestamps_plausible(time: int, unit: str, is_passed: bool, finding: str) -> None:
    check = check_plausible(build_interactions(2, 2, time=time), unit)
    assert check.passed is is_passed
    assert finding in check.text


USERS = pl.Series(["a", "b", "c"])


@pytest.mark.parametrize(
    ("rows", "users", "finding"),
    [
        (0, 0, "the source has 0 rows of people who were erased"),
        (1_200, 3, "the source still has 1,200 rows of 3 erased people, which were left out: "),
        (1, 1, "the source still has one row of one erased person, which was left out: "),
    ],
)
def test_source_without_erased(rows: int, users: int, finding: str) -> None:
    check = checks.check_source_without_erased(rows, users)
    assert check.passed == (not rows)
    assert not check.blocks
    assert check.text.startswith(finding)


def test_few_event_types() -> None:
    assert checks.check_few_event_types(0).passed
    assert checks.check_few_event_types(9).passed
    check = checks.check_few_event_types(10)
    assert check.blocks
    assert check.text.startswith("10 event types; Personalize takes at most 9")
    assert checks.check_few_event_types(8, has_event_values=True).passed
    assert checks.check_few_event_types(9, has_event_values=True).blocks


def test_a_warning_does_not_stop_a_step() -> None:
    checks.require_passed([SHORT])


def test_editions_keep_their_verdicts() -> None:
    edition = make_edition({"findings": [Finding("no_seen_items", "good", "0 items")]})
    seen_check, unknown = read_checks(edition, ["no_seen_items", "no_duplicates"])
    assert seen_check.text == "0 items"
    assert "not checked" in unknown.text


def test_a_check_that_warned_in_an_edition_still_only_warns() -> None:
    edition = make_edition({"findings": [SHORT, check_no_duplicates(1)]})
    stored = Edition.model_validate_json(edition.model_dump_json()).findings
    assert stored == edition.findings
    assert [finding.blocks for finding in stored] == [False, True]
