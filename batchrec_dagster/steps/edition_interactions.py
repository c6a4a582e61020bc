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
from batchrec_dagster.steps.list_reasons import RowReasons, prepare_reasons
from batchrec_dagster.steps.list_rules import (
    RuleInputs,
    check_rules_suit_data,
    prepare_rules,
)
from batchrec_dagster.steps.popular_items import (
    PopularItems,
    read_popular_items,
)
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.steps.seen_items import SeenItems
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.edition import Finding


@dataclass(frozen=True)
class EditionInteractions:
    """The interactions that an edition is made from."""

    seen: SeenItems | None
    """What its users have interacted with; None if lists may contain that, and with rules, which
    know it themselves."""
    until: int
    """The time of the newest interaction, in epoch seconds."""
    rules: Rules | None = None
    """The rules of lists, or what leaves out items without a title; None without both."""
    rule_checks: Sequence[Finding] = ()
    """Whether the rules suit the interactions and what else they read."""
    popular: PopularItems | None = None
    """The popular items; None if no list needs any."""
    reasons: RowReasons | None = None
    """Says why each item is on a list; None if lists do not have that."""
    leaves_out_untitled: bool = False
    """Whether some items have no title, which lists show."""

    @property
    def history_length(self) -> int:
        """How many items that lists leave out a user had at most; with rules, nearly all users."""
        if self.rules is not None:
            return self.rules.measure_history()
        return self.seen.longest if self.seen is not None else 0


def read_interactions(
    work: PersonalizeWork,
    published: PublishedList,
    divided: DividedUsers,
    rule_inputs: RuleInputs | None = None,
) -> EditionInteractions:
    """The interactions as they are when lists are made for these users. Raises UserError.

    rule_inputs: the rules of lists, and what they read besides; None without rules.
    """
    settings, users = published.settings, divided.ids
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        reasons = prepare_reasons(published, interactions, users)
        popular = None
        if rule_inputs is not None or divided.popular.height:
            popular = read_popular_items(
                work, published, interactions, divided.popular.get_column("reason")
            )
        titled = find_titled_items(work, published, interactions)
        if rule_inputs is not None or titled is not None:
            fills = popular if rule_inputs is not None else None
            rules, context = prepare_rules(
                published, rule_inputs, interactions, users, int(newest), titled, fills
            )
            checks = []
            if rule_inputs is not None:
                seen_items = settings.seen_items
                checks = [check_rules_suit_data(rule_inputs.rules, seen_items, context, rules)]
            return EditionInteractions(
                None, int(newest), rules, checks, popular, reasons, titled is not None
            )
        seen = SeenItems(interactions, users) if settings.exclude_seen else None
        return EditionInteractions(seen, int(newest), popular=popular, reasons=reasons)
