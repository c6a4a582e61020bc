"""The verdict on an edition: a sentence that sums up the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchrec_dagster.editions.edition import Finding, Level

# The maximum number of words of a verdict after its opening. Pages list all findings.
MOST_WORDS = 20
# The opening of a verdict at each level, from the best level to the worst.
OPENINGS: Mapping[Level, str] = {
    "good": "Good to send",
    "watch": "Look before you send",
    "refuse": "Do not send",
}
# The opening if nothing speaks against sending, and no interval proves that the lists are better
# than popular items.
UNPROVED_OPENING = "Checks passed"
# The lower ends of intervals. A lower end above 0 proves that the lists are better.
PROOFS = ("lead_low", "gain_low")


@dataclass(frozen=True)
class Verdict:
    """Whether lists can be sent, and why."""

    level: Level
    opening: str
    """The first words, such as `Good to send`."""
    text: str
    """The reasons in a few words, without a capital and a full stop.

    It is empty if no finding has a headline.
    """

    def __str__(self) -> str:
        return f"{self.opening}: {self.text}." if self.text else f"{self.opening}."


def give_verdict(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict at the worst level of the findings, with the headlines of that level.

    findings: all findings about an edition, such as `EditionsRecord.list_findings` returns.
    """
    level: Level = max(
        (finding.level for finding in findings), key=[*OPENINGS].index, default="good"
    )
    reasons = [finding for finding in findings if finding.level == level]
    headlines = [
        finding.headline or ("" if finding.passed else f"{finding.name} failed")
        for finding in reasons
    ]
    opening = OPENINGS[level]
    if level == "good" and not any(_is_proof(finding) for finding in reasons):
        opening = UNPROVED_OPENING
    return Verdict(level, opening, _join_headlines([*filter(None, headlines)]))


def _is_proof(finding: Finding) -> bool:
    """Return whether the finding proves that the lists are better than popular items."""
    return any(finding.numbers.get(name, 0) > 0 for name in PROOFS)


def _join_headlines(headlines: Sequence[str]) -> str:
    """Return headlines of at most MOST_WORDS words, and the number of headlines left out.

    The first headline is always there, and may be longer.
    """
    named: list[str] = []
    for headline in headlines:
        if named and sum(len(text.split()) for text in [*named, headline]) > MOST_WORDS:
            break
        named.append(headline)
    more = len(headlines) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named)
