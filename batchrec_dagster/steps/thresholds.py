"""The thresholds of findings that no setting can change. They are rules of thumb."""

from __future__ import annotations

from typing import NamedTuple


class Threshold(NamedTuple):
    """A threshold of a finding."""

    finding: str
    """The name of the finding."""
    value: float
    sentence: str
    """A sentence about the result beyond the threshold."""

    def __str__(self) -> str:
        return f"{self.value:g}" if self.value >= 1 else f"{self.value:.0%}"


FILLED_SHARE = Threshold(
    "not_shrunk",
    0.5,
    "A column with a value in fewer rows is only missed if all its values are gone, as the values"
    " of few rows vary from day to day.",
)
SPARSE_SHARE = Threshold("not_shrunk", 0.1, "A column with a value in fewer rows is never missed.")
LEAST_EVENTS = Threshold("not_shrunk", 100, "Types of events with fewer rows are not compared.")
FEW_TESTED = Threshold(
    "quality_gate",
    100,
    "With fewer tested users, the text says how few they were. The interval says what that means.",
)
RECENT_DAYS = Threshold(
    "quality_gate",
    90,
    "What people did with lists more days before the newest outcomes does not count.",
)
DECLINE = Threshold(
    "no_worse_than_before",
    0.1,
    "Without intervals, a model is worse than the one before if its NDCG@25 is lower by more.",
)
FEW_WITHOUT_LIST = Threshold(
    "people_have_lists",
    0.05,
    "A larger share of the users for whom lists were made has none.",
)
FEW_SHORT = Threshold("lists_full", 0.05, "A larger share of lists has fewer items than asked for.")
FEW_UNTITLED = Threshold(
    "rows_titled", 0.05, "A larger share of results was left out, as the items have no title."
)
FEW_FILLED = Threshold(
    "results_enough_for_rules",
    0.01,
    "Of a larger share of lists, rules left too few of the model's results.",
)
TOP_SHARE = Threshold(
    "not_concentrated",
    0.5,
    "The most recommended 1% of the items take this share of the lists or more, and also the next"
    " value is reached.",
)
TIMES_HISTORIES = Threshold(
    "not_concentrated",
    3,
    "They take this many times what the most popular 1% take of the histories, or more.",
)
HEAVY_USER = Threshold(
    "no_user_dominates",
    0.1,
    "One user has a larger share of all interactions, and also the next value is exceeded.",
)
TIMES_EVEN = Threshold(
    "no_user_dominates", 10, "The share is more than this many times that of the average user."
)
LARGE_CHANGE = Threshold(
    "data_stable",
    0.3,
    "The interactions, users or items are more or fewer by a larger share than in the edition"
    " before, more items vanished, or the mean value changed by more.",
)
LARGE_SHIFT = Threshold(
    "data_stable", 0.1, "The share of a type of events went up or down by more."
)
FEW_KNOWN = Threshold(
    "items_known", 0.5, "A smaller share of the items in the lists is in the items file."
)
FEW_LISTS_OF_ITEMS = Threshold(
    "items_have_lists", 0.5, "A smaller share of the requested items has a list."
)
THRESHOLDS = (
    FILLED_SHARE,
    SPARSE_SHARE,
    LEAST_EVENTS,
    FEW_TESTED,
    RECENT_DAYS,
    DECLINE,
    FEW_WITHOUT_LIST,
    FEW_SHORT,
    FEW_UNTITLED,
    FEW_FILLED,
    TOP_SHARE,
    TIMES_HISTORIES,
    HEAVY_USER,
    TIMES_EVEN,
    LARGE_CHANGE,
    LARGE_SHIFT,
    FEW_KNOWN,
    FEW_LISTS_OF_ITEMS,
)
