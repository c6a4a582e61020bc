"""What the interactions say of an edition: what lists leave out, and what fills them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.personalize.schemas import TIMESTAMP
from batchrec_dagster.steps.batches import DividedUsers
from batchrec_dagster.steps.items import find_titled_items
from batchrec_dagster.steps.list_rules import (
    RuleInputs,
    check_rules_suit_data,
    prepare_rules,
)
from batchrec_dagster.steps.popular_items import (
    PopularItems,
    read_popular_items,
)
from batchrec_dagster.steps.reasons import Reasons, prepare_reasons
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.edition import Finding

# With rules, the job is asked for enough results for what this share of the users had.
SHARE_SERVED = 0.999


@dataclass(frozen=True)
class EditionInteractions:
    """The interactions that an edition is made from."""

    rules: Rules
    """What lists leave out, and what fills them."""
    until: int
    """The time of the newest interaction, in epoch seconds."""
    history_length: int
    """How many items that lists leave out a user had at most; with rules, nearly all users."""
    leaves_out_untitled: bool
    """Whether some items have no title, which lists show."""
    rule_checks: Sequence[Finding]
    """Whether the declared rules suit the interactions and what else they read."""
    popular: PopularItems | None
    """The popular items; None if no list needs any."""
    reasons: Reasons | None
    """Says why each item is on a list; None if lists do not have that."""


def read_interactions(
    work: PersonalizeWork,
    published: PublishedList,
    divided: DividedUsers,
    rule_inputs: RuleInputs | None = None,
) -> EditionInteractions:
    """The interactions as they are when lists are made for these users. Raises UserError.

    rule_inputs: the rules of lists, and what they read besides; None without rules.
    """
    users = divided.ids
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        reasons = prepare_reasons(work, published, interactions, users)
        popular = None
        if rule_inputs is not None or divided.popular.height:
            popular = read_popular_items(
                work, published, interactions, divided.popular.get_column("reason")
            )
        titled = find_titled_items(work, published, interactions)
        rules, context = prepare_rules(
            published, rule_inputs, interactions, users, int(newest), titled, popular
        )
        checks = []
        if rule_inputs is not None:
            seen = published.settings.seen_items
            checks.append(check_rules_suit_data(rule_inputs.rules, seen, context, rules))
    history_length = rules.measure_history(1.0 if rule_inputs is None else SHARE_SERVED)
    return EditionInteractions(
        rules, int(newest), history_length, titled is not None, checks, popular, reasons
    )
