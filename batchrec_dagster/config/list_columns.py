"""The columns of published lists: columns of every list, and columns that a declaration adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from batchrec_dagster.editions import subjects as list_subjects
from batchrec_dagster.preparation.attributes import AttributesLayout

# The columns that give reasons: why the item is on the list, the item in the user's history that
# explains it, the title of that earlier item, and the user's event with that earlier item.
REASON, REASON_ITEM = "reason", "reason_item"
REASON_TITLE, REASON_EVENT = "reason_title", "reason_event"
REASONS = (REASON, REASON_ITEM, REASON_TITLE, REASON_EVENT)
# The columns that batchrec adds itself. Declared columns cannot have these names.
FIXED_COLUMNS = ("user_id", "rank", "item_id", "score", "arm")
# The column of a similar item's id. In tables of similar items, `item_id` is the item that the list
# is for.
SIMILAR_ITEM_COLUMN = list_subjects.ITEMS.member_column
# Columns of the items that Personalize does not get.
FOR_PEOPLE = ("title", "image", "link")


def name_published_column(column: str) -> str:
    """Return the name of a declared column in published lists, in lower case.

    The reason is that PostgreSQL reads PRICE without quotes as price.
    """
    return column.lower()


def find_columns_problem(
    columns: Sequence[str], layout: AttributesLayout | None, *, has_event_types: bool
) -> str | None:
    """Return why lists cannot have these columns; None if they can.

    layout: the layout of the items; None if no items are declared.
    has_event_types: whether interactions may have event types.
    """
    of_items = _list_columns_of_items(layout)
    unknown = [name for name in columns if name not in (*of_items, *REASONS)]
    if unknown:
        declared = f"items.columns has {', '.join(of_items)}" if of_items else "items is missing"
        return f"there is no {', '.join(unknown)}: {declared}; {', '.join(REASONS)} are there too"
    if REASON_TITLE in columns and "title" not in of_items:
        return f"{REASON_TITLE} is the title of an item: declare items.columns.title, or omit it"
    if REASON_EVENT in columns and not has_event_types:
        return f"{REASON_EVENT} is a type of event: declare ratings.columns.event_type, or omit it"
    names = [name_published_column(name) for name in columns]
    for name, published_name in zip(columns, names, strict=True):
        taken = (*FIXED_COLUMNS, *(REASONS if name not in REASONS else ()))
        if published_name in taken:
            return f"lists have a {published_name} of their own: give {name} another name in items"
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        return f"{', '.join(repeated)} is there twice (in lower case, as lists have it)"
    return None


def find_similar_items_columns_problem(
    columns: Sequence[str], layout: AttributesLayout | None
) -> str | None:
    """Return why lists of similar items cannot have these columns; None if they can.

    layout: the layout of the items; None if no items are declared.
    """
    reasons = [name for name in columns if name in REASONS]
    if reasons:
        names = " and ".join(reasons)
        return f"only lists of users have a {names}, as it comes from a user's history: omit it"
    if SIMILAR_ITEM_COLUMN in map(name_published_column, columns):
        return f"lists have a {SIMILAR_ITEM_COLUMN} of their own: give it another name in items"
    return find_columns_problem(columns, layout, has_event_types=True)


def _list_columns_of_items(layout: AttributesLayout | None) -> list[str]:
    """Return the declared names of the item columns that lists can have."""
    if layout is None:
        return []
    for_people = [name for name in FOR_PEOPLE if name in layout.roles]
    return [*for_people, *layout.categories, *layout.numbers]
