"""The checks that the data suit the rules of users' lists, and that the lists obey the rules."""

from __future__ import annotations

from batchrec_dagster.config.rules import ExcludeSeen, PriceRange, RuleSettings
from batchrec_dagster.editions.edition import Finding, Numbers, refuse_unless, watch_unless
from batchrec_dagster.steps.findings import is_share_allowed
from batchrec_dagster.steps.lists.inputs import ListInputs
from batchrec_dagster.steps.lists.max_per import list_values
from batchrec_dagster.steps.lists.rules import Rules
from batchrec_dagster.steps.thresholds import FEW_FILLED


def check_no_seen_items(seen: int, settings: ExcludeSeen) -> Finding:
    """Check that no list has an item that exclude_seen leaves out.

    seen: the number of rows with such an item.
    settings: the settings of exclude_seen.
    """
    text = f"{seen:,} rows have {settings.description}"
    return Finding("no_seen_items", refuse_unless(not seen), text, numbers={"seen": seen})


def check_rules_suit_data(
    rules: RuleSettings, seen: ExcludeSeen | None, inputs: ListInputs, prepared: Rules
) -> Finding:
    """Check that the data have what each rule needs; a failure only warns.

    seen: the settings of exclude_seen; None if lists leave out no items that users had.
    """
    problems = [
        *_find_missing_events("exclude_seen", seen, inputs),
        *_find_missing_events("price", rules.price, inputs),
        *_find_impossible_pins(prepared),
        *(
            f"max_per: no item has a value of {category}"
            for category in rules.max_per
            if not list_values(category, inputs).height
        ),
    ]
    text = "; ".join(problems) or "every rule has what it needs"
    return Finding(
        "rules_suit_data",
        watch_unless(not problems),
        text,
        "a rule cannot do what it says" if problems else "",
        {"problems": len(problems)},
    )


def _find_missing_events(
    name: str, settings: ExcludeSeen | PriceRange | None, inputs: ListInputs
) -> list[str]:
    """Return the problem with the event types that a rule names; an empty list if there is none.

    name: the name of the rule in the declaration.
    settings: the settings of the rule; None if the rule is not declared.
    """
    existing = inputs.event_types or set()
    events = settings.events if settings is not None else None
    missing = [event for event in events or () if event.lower() not in existing]
    if not missing:
        return []
    has = f"there are {', '.join(sorted(existing))}" if existing else "they have no types"
    return [f"{name}.events: no interaction is of the type {', '.join(missing)}; {has}"]


def _find_impossible_pins(prepared: Rules) -> list[str]:
    """Return the problems with pins that cannot put an item on any list."""
    problems = []
    for pin in prepared.pins:
        if not len(pin.items) and pin.setting.only is not None:
            problems.append(f"pin: no item meets {pin.setting.only}")
        elif not len(pin.items):
            problems.append(f"pin: {pin.setting.item} is neither an item nor in the interactions")
        elif not prepared.allows_any(pin):
            target = pin.setting.target
            problems.append(f"pin: {target} is on no list: block or only leaves it out")
    return problems


def check_results_enough(prepared: Rules, num_results: int, most: int, setting: str) -> Finding:
    """Check that nearly all lists of the model have enough results left; a failure only warns.

    num_results: the number of results that were asked for.
    most: the largest number of results that may be asked for.
    setting: the prefix of the names of the list's settings.
    """
    filled = prepared.filled
    share = filled.short_of_model / max(1, filled.of_model)
    passed = share <= FEW_FILLED.value
    text = (
        f"for {filled.short_of_model:,} of the {filled.of_model:,} lists of the model ({share:.1%})"
        f" the rules left too few of the {num_results} results asked for"
    )
    if filled.short_of_model:
        text += f"; {filled.popular_rows:,} popular items fill these {filled.short_of_model:,}"
    if not passed:
        removed = {name: counts.removed for name, counts in prepared.counts.items()}
        strictest = max(removed, key=lambda name: removed[name], default=None)
        if strictest is not None and removed[strictest]:
            text += f". {strictest} left out most ({removed[strictest]:,}): loosen it"
        text += (
            f", or set a smaller {setting}.num_results"
            if num_results >= most
            else f", or ask for more: {setting}.candidates"
        )
    numbers: Numbers = {
        "lists": filled.of_model,
        "short": filled.short_of_model,
        "results_asked_for": num_results,
    }
    headline = "" if passed else f"rules left {filled.short_of_model:,} lists too few results"
    return Finding("results_enough_for_rules", watch_unless(passed), text, headline, numbers)


def check_lists_not_emptied(prepared: Rules, max_share: float, setting: str) -> Finding:
    """Check that the rules leave nearly every user a list.

    max_share: the largest allowed share of users with a list that the rules emptied.
    setting: the prefix of the names of the list's settings.
    """
    filled = prepared.filled
    emptied = {name: counts.emptied for name, counts in prepared.counts.items() if counts.emptied}
    empty = sum(emptied.values())
    passed = is_share_allowed(empty, filled.lists, max_share)
    text = f"{empty:,} of {filled.lists:,} lists are empty because of {setting}.rules"
    if empty:
        text += f" (at most {100 * max_share:g} % may: gate.max_emptied_share): " + ", ".join(
            f"{name} left out the last item of {lists:,}" for name, lists in emptied.items()
        )
    numbers: Numbers = {"users": filled.lists, "empty": empty}
    return Finding("lists_not_emptied", refuse_unless(passed), text, numbers=numbers)
