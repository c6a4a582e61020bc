"""The badges of tiles: whether a number is good, each with the rule that says so.

A tile has a badge only where something was judged. The rules are those of the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping

from batchrec_dagster.reporting.provenance import SMALL_SAMPLE
from batchrec_dagster.reporting.sections import Badge, Judgement
from batchrec_dagster.reporting.verdict import (
    CONCENTRATED_SHARE,
    FEW_SHARE,
    TIMES_HISTORIES,
    VerdictFacts,
    is_concentrated,
    judge_quality,
)
from batchrec_dagster.steps.outcomes import Outcome

# Lists that rules left short are few up to this share of all.
FEW_SHORT_LISTS = 0.01

# What each judgement of a lead over popular items means.
LEAD_RULES: Mapping[Judgement, str] = {
    "good": "the 95% interval of the lead over popular items is above 0, with"
    f" {SMALL_SAMPLE} users or more",
    "watch": "the 95% interval of the lead over popular items includes 0, or there are fewer than"
    f" {SMALL_SAMPLE} users",
    "bad": "the 95% interval of the lead over popular items is below 0",
}


def judge_ndcg(facts: VerdictFacts) -> Badge | None:
    """Whether the model is better than popular items.

    None if nobody was tested, if there is nothing to compare it with, or if it is better and
    nothing says whether that is more than chance.
    """
    if facts.is_untested or (facts.tested is None and facts.recent is None):
        return None
    judgement = judge_quality(facts).judgement
    if facts.tested is not None:
        return Badge(judgement, LEAD_RULES[judgement])
    if judgement == "good":
        return None
    return Badge(judgement, "the model is not above popular items; no interval is known")


def judge_outcome(outcome: Outcome) -> Badge | None:
    """Whether the lists reached more people than popular items; None if that was not compared."""
    gain = outcome.gain
    if gain is None:
        return None
    judgement: Judgement = "watch"
    if gain.high < 0:
        judgement = "bad"
    elif gain.low > 0 and outcome.active_users >= SMALL_SAMPLE:
        judgement = "good"
    return Badge(judgement, LEAD_RULES[judgement])


def judge_service(requested: int, served: int) -> Badge | None:
    """Whether the requested users got a list; None if nobody was to get one.

    requested: how many users were to get a list.
    served: how many got one.
    """
    missing = requested - served
    if not requested:
        return None
    if missing <= 0:
        return Badge("good", "every requested user has a list")
    if missing > FEW_SHARE * requested:
        return Badge("bad", f"more than {FEW_SHARE:.0%} of the requested users have no list")
    return Badge("watch", f"up to {FEW_SHARE:.0%} of the requested users have no list")


def judge_concentration(facts: VerdictFacts) -> Badge | None:
    """A warning if few items take most of the lists; else None.

    That they take less is no reason to call the lists good.
    """
    if not is_concentrated(facts):
        return None
    return Badge(
        "watch",
        f"1% of the items take {CONCENTRATED_SHARE:.0%} of the recommendations or more, and"
        f" {TIMES_HISTORIES:.0f} times what the most popular 1% have of the interactions",
    )


def judge_short_lists(short: int, lists: int) -> Badge | None:
    """Whether rules left few lists short; None without lists.

    short: how many lists they left short.
    lists: how many lists there are.
    """
    if not lists:
        return None
    if short <= FEW_SHORT_LISTS * lists:
        return Badge("good", f"at most {FEW_SHORT_LISTS:.0%} of the lists")
    return Badge("watch", f"more than {FEW_SHORT_LISTS:.0%} of the lists")
