"""A failed check says what the last run measured, in the same sentence."""

import dagster as dg
import pytest

from batchrec_dagster.pipeline.last_checks import add_last_numbers, insert_last_time
from batchrec_dagster.pipeline.run_step import asset_step, check_results
from batchrec_dagster.preparation.rules import BadRows
from batchrec_dagster.steps.checks import (
    CheckResult,
    check_enough_interactions,
    check_lists_full,
    check_no_failed_users,
    check_rows_readable,
    require_passed,
)


def check_rows(bad: int) -> CheckResult:
    counts, examples = {}, []
    if bad:
        counts, examples = {"the rating is not a number": bad}, ["ratings.csv, line 102: 'x'"]
    return check_rows_readable("rows_readable", "ratings", 4000, BadRows(counts, examples), "fail")


@pytest.mark.parametrize(
    ("last", "failed", "sentence"),
    [
        (
            check_rows(0),
            check_rows(7),
            "7 of 4,000 rows cannot be read (last time 0; the rating is not a number: 7); ",
        ),
        (
            check_enough_interactions(2667, 200, 200),
            check_enough_interactions(988, 40, 40),
            "988 interactions of 40 users, 40 of them with two or more (last time 2,667); Person",
        ),
        (
            check_lists_full(200, 200, 25),
            check_lists_full(150, 200, 25),
            "150 of 200 users have all 25 items (last time 200 of 200); the others have seen",
        ),
        (
            check_no_failed_users(0, 200, None),
            check_no_failed_users(5, 200, ("u1", "no such user")),
            "5 of 200 users failed (last time 0; at most 0 % may: recommendations.",
        ),
    ],
)
def test_a_failed_check_says_what_the_last_run_measured(
    last: CheckResult, failed: CheckResult, sentence: str
) -> None:
    (result,) = add_last_numbers(check_results([failed]), check_results([last]))
    assert (result.description or "").startswith(sentence)
    metadata = {name: value.value for name, value in (result.metadata or {}).items()}
    last_numbers = {f"last_{name}": value for name, value in last.numbers.items()}
    assert metadata == {**failed.numbers, **last_numbers}
    # What is repeated while nothing changes keeps what it said.
    assert add_last_numbers([result], check_results([failed])) == [result]


def test_checks_that_passed_and_those_without_a_last_run_are_left_as_they_are() -> None:
    passed, failed = check_results([check_rows(0)]), check_results([check_rows(7)])
    assert add_last_numbers(passed, failed) == passed
    assert add_last_numbers(failed, []) == failed
    other = [CheckResult("rows_readable", passed=True, finding="from an earlier version")]
    assert add_last_numbers(failed, check_results(other)) == failed
    unread = [CheckResult("rows_readable", passed=False, finding="no column 'customer' (x)")]
    assert add_last_numbers(check_results(unread), passed) == check_results(unread)
    assert insert_last_time("3 missing", "0") == "3 missing (last time 0)"


def test_the_run_and_its_checks_say_it_from_dagsters_history() -> None:
    bad = [0]

    @dg.asset(check_specs=[dg.AssetCheckSpec("rows_readable", asset="ratings", blocking=True)])
    @asset_step
    def ratings(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        checks = [check_rows(bad[0])]
        require_passed(checks)
        return dg.MaterializeResult(check_results=check_results(checks))

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([ratings], instance=instance).success
        bad[0] = 7
        result = dg.materialize([ratings], instance=instance, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data is not None
    description = failure.step_failure_data.user_failure_data.description or ""
    assert description.startswith("rows_readable: 7 of 4,000 rows cannot be read (last time 0; ")
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.metadata["last_bad_rows"].value == 0
