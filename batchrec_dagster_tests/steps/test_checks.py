"""Every check, with data that hold and data that break it."""

from datetime import UTC, datetime

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster.pipeline.run_step import asset_step
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.steps import checks
from batchrec_dagster.steps.publish import read_checks
from batchrec_dagster.storage.edition import Edition, Finding
from batchrec_dagster_tests.guard.editions import make_edition

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


def test_every_user_answered() -> None:
    assert checks.check_every_user_answered(USERS, pl.Series(["c", "a", "b"])).passed
    missing = checks.check_every_user_answered(USERS, pl.Series(["a"]))
    assert not missing.passed
    assert "1 of 3 users have a result; 2 missing" in missing.text
    assert not checks.check_every_user_answered(USERS, pl.Series(["a", "b", "c", "a"])).passed
    unknown = checks.check_every_user_answered(USERS, pl.Series(["a", "b", "c", "d"]))
    assert not unknown.passed
    assert "3 of 3 users have a result; 1 results are of users that were not" in unknown.text
    empty = checks.explain_empty_lists(checks.check_every_user_answered(USERS, USERS))
    assert empty.blocks
    assert empty.text.startswith("3 of 3 users have a result; all lists are empty")


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


@pytest.mark.parametrize(
    ("failed", "lines", "max_share", "is_passed"),
    [
        (0, 2, 0.0, True),
        (1, 1_000, 0.001, True),
        (2, 1_000, 0.001, False),
        # 0.29 * 100 is less than 29.
        (29, 100, 0.29, True),
        (1, 2, 1.0, True),
        (2, 2, 1.0, False),
    ],
)
def test_a_share_of_the_users_may_fail_but_not_all(
    failed: int, lines: int, max_share: float, is_passed: bool
) -> None:
    check = checks.check_no_failed_users(failed, lines, ("b", "no"), max_share)
    assert check.blocks is not is_passed
    assert check.numbers == {"lines": lines, "failed": failed}


def test_failed_users_are_named_with_the_setting() -> None:
    few = checks.check_no_failed_users(3, 12_000, ("b", "User error"), 0.001)
    most = "(at most 0.1 % may: recommendations.max_failed_share)"
    first = "the first: User error"
    assert (
        few.text == f"3 of 12,000 users failed {most}; they have no list in this edition; {first}"
    )
    many = checks.check_no_failed_users(6, 300, ("b", "User error"), 0.001)
    assert many.text == f"6 of 300 users failed {most}; {first}"
    named = checks.check_no_failed_users(6, 300, ("b-1", "No user b-1 in b-12"), 0.001)
    assert named.text.endswith("; the first: No user … in b-12")
    assert checks.check_no_failed_users(0, 300, None, 0.001).text == "0 of 300 users failed"


def test_no_failed_segments() -> None:
    assert checks.check_no_failed_segments(0, 2, None, "segments.items").passed
    check = checks.check_no_failed_segments(1, 2, ("b", "User error"), "segments.items")
    assert check.blocks
    assert check.text == (
        "1 of 2 segments failed; the first, segment 'b': User error; fix segments.items"
    )
    # Another job would return the same.
    assert not check.makes_output_unusable


def test_every_segment_answered() -> None:
    def check_segments(*segments: str) -> Finding:
        return checks.check_every_segment_answered(["1", "2"], pl.Series(segments))

    assert check_segments("2", "1").passed
    assert not check_segments("2", "1", "1").passed
    missing = check_segments("2")
    assert not missing.passed
    assert "1 of 2 segments have a result; missing: '1'" in missing.text


def test_no_duplicates() -> None:
    assert checks.check_no_duplicates(0).passed
    check = checks.check_no_duplicates(1, "user")
    assert not check.passed
    assert check.text.startswith("1 users")


def test_no_seen_items() -> None:
    assert checks.check_no_seen_items(0).passed
    check = checks.check_no_seen_items(1)
    assert not check.passed
    assert check.text.startswith("1 recommended items")


def test_lists_full_is_a_warning() -> None:
    assert checks.check_lists_full(2, 2, 1).passed
    short = checks.check_lists_full(1, 2, 2)
    assert not short.passed
    assert short.text.startswith("1 of 2 users have all 2 items")
    assert not short.blocks
    without_failed = checks.check_lists_full(2, 3, 1, failed=1)
    assert without_failed.passed
    assert without_failed.text.startswith("2 of 2 users have all 1 items")
    assert without_failed.numbers["users"] == 3


def test_items_that_the_items_file_does_not_have_are_a_warning() -> None:
    listed_ids, known_ids = pl.Series(["1.0", "2.0", "3"]), pl.Series(["1", "2", "3"])
    assert checks.check_items_known(listed_ids.head(0), known_ids).passed
    assert checks.check_items_known(pl.Series(["1", "2", "4"]), known_ids).passed
    other = checks.check_items_known(listed_ids, known_ids)
    assert not other.passed
    assert not other.blocks
    assert other.text.startswith("1 of the 3 items in the lists are in the items file")
    assert "The lists have '1.0', the file '1'" in other.text
    assert "ratings.columns.item" in checks.check_items_known(listed_ids, known_ids.head(0)).text


def test_a_filter_that_lets_items_through_which_the_file_does_not_have_is_named() -> None:
    settings = RecommendationSettings(filter='EXCLUDE ItemID WHERE Items.STOCK NOT IN ("yes")')
    listed_ids, known_ids = pl.Series(["1", "2", "3"]), pl.Series(["1", "2"])
    check = checks.check_items_known(listed_ids, known_ids, settings.open_filter)
    assert not check.passed
    assert not check.blocks
    assert check.text == (
        "2 of the 3 items in the lists are in the items file. recommendations.filter: EXCLUDE …"
        " Items.STOCK NOT IN lets items through that the items file does not have: write INCLUDE"
        " ItemID WHERE Items.STOCK IN (…)"
    )
    assert checks.check_items_known(known_ids, known_ids, settings.open_filter).passed


@pytest.mark.parametrize(
    ("expression", "is_open"),
    [
        ('EXCLUDE ItemID WHERE Items.STOCK NOT IN ("yes")', True),
        ('EXCLUDE ItemID WHERE Items.PRICE < 1 AND Items.STOCK != "yes"', True),
        ('EXCLUDE ItemID WHERE Items.STOCK IN ("no")', False),
        ('INCLUDE ItemID WHERE Items.STOCK NOT IN ("no")', False),
        ('EXCLUDE ItemID WHERE Interactions.EVENT_TYPE NOT IN ("click")', False),
        (None, False),
    ],
)
def test_only_an_exclusion_of_all_other_items_lets_unknown_ones_through(
    expression: str | None, *, is_open: bool
) -> None:
    assert (RecommendationSettings(filter=expression).open_filter is not None) is is_open


def test_results_without_a_title_are_a_warning() -> None:
    assert checks.check_rows_titled(0, 0).passed
    assert checks.check_rows_titled(95, 5).passed
    untitled = checks.check_rows_titled(57_648, 30_247)
    assert not untitled.passed
    assert not untitled.blocks
    assert untitled.text.startswith("30,247 of 87,895 results were left out, as they have no title")


def test_a_step_whose_checks_fail_reports_them_and_stops() -> None:
    @asset_step
    def materialize_step() -> dg.MaterializeResult[None]:
        checks.require_passed([checks.check_no_seen_items(0), checks.check_no_duplicates(1)])
        return dg.MaterializeResult()

    results = materialize_step()
    results_reported = [next(results), next(results)]
    assert isinstance(results_reported[0], dg.AssetCheckResult)
    assert isinstance(results_reported[1], dg.AssetCheckResult)
    assert [results_reported[0].passed, results_reported[1].passed] == [True, False]
    with pytest.raises(dg.Failure, match="no_duplicates: 1 items"):
        next(results)


def test_a_warning_does_not_stop_a_step() -> None:
    checks.require_passed([checks.check_lists_full(1, 2, 2)])


def test_editions_keep_their_verdicts() -> None:
    edition = make_edition({"findings": [Finding("no_seen_items", True, "0 items")]})
    seen_check, unknown = read_checks(edition, ["no_seen_items", "no_duplicates"])
    assert seen_check.text == "0 items"
    assert "not checked" in unknown.text


def test_a_check_that_warned_in_an_edition_still_only_warns() -> None:
    short = checks.check_lists_full(1, 2, 2)
    edition = make_edition({"findings": [short, checks.check_no_duplicates(1)]})
    stored = Edition.model_validate_json(edition.model_dump_json()).findings
    assert stored == edition.findings
    assert [finding.blocks for finding in stored] == [False, True]
