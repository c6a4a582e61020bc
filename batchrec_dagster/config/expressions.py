"""Whether a filter, a condition or a column fits the datasets that are declared.

So what Personalize would refuse fails when the pipeline is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from batchrec_dagster.personalize import conditions
from batchrec_dagster.personalize.filters import (
    DATASETS,
    FilterExpressionError,
    iterate_comparisons,
    parse_attributes,
    parse_condition,
)
from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    INTERACTIONS,
    ITEM_ID,
    ITEMS,
    USER_ID,
    USERS,
    Schema,
)
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.preparation.row_rules import EVENT_TYPE_VALUE
from batchrec_dagster.storage import list_subjects

# By dataset type.
Schemas = Mapping[str, Schema]


def find_filter_traits(expression: str | None) -> conditions.FilterTraits | None:
    """What a filter of lists or segments needs; None without a filter.

    Raises ValueError, with the position of an error in the syntax.
    """
    if expression is None:
        return None
    return conditions.find_traits(expression)


def find_filter_problem(expression: str, schemas: Schemas, *, events: bool) -> str | None:
    """Why Personalize would refuse the filter, or why it matches nothing; None if it works.

    events: whether interactions have different event types.
    """
    try:
        for dataset, field in sorted(conditions.find_used_fields(expression)):
            problem = _explain_missing_field(dataset, field, schemas)
            if problem:
                return problem
        conditions.check_expression(expression, schemas)
        named_events = conditions.find_event_types(expression) - {"*"}
        if named_events - {EVENT_TYPE_VALUE}:
            return find_events_problem(
                [*(named_events - {EVENT_TYPE_VALUE})], has_event_types=events
            )
    except FilterExpressionError as error:
        return str(error)
    return None


def find_condition_problem(condition: str, dataset: str, schemas: Schemas) -> str | None:
    """Why the condition on a dataset cannot be used; None if it can.

    dataset: its type, ITEMS or USERS.
    """
    try:
        parsed = parse_condition(condition)
        for comparison in iterate_comparisons(parsed):
            field = comparison.field
            if field.dataset == dataset:
                problem = _explain_missing_field(dataset, field.column, schemas)
                if problem:
                    return problem
        conditions.check_condition(parsed, dataset, schemas)
    except FilterExpressionError as error:
        if condition.lstrip()[:7].upper() in ("INCLUDE", "EXCLUDE"):
            return f"write the condition alone, such as {dataset}.COLUMN = 1, without INCLUDE"
        return str(error)
    return None


def find_column_problem(column: str, kind: str, schemas: Schemas) -> str | None:
    """Why a rule cannot use this column of the items; None if it can.

    kind: categories or numbers, the setting in items.columns that declares such columns.
    """
    problem = _explain_missing_field(ITEMS, column, schemas)
    if problem:
        return problem
    field = schemas[ITEMS].field(column)
    is_text = field is not None and field.type == "string"
    if is_text != (kind == "categories") or column.upper() == ITEM_ID:
        return f"Items.{column} is not one of items.columns.{kind}"
    return None


def find_user_category_problem(column: str, schemas: Schemas) -> str | None:
    """Why users cannot be grouped by this column; None if they can."""
    problem = _explain_missing_field(USERS, column, schemas)
    if problem:
        return problem
    field = schemas[USERS].field(column)
    if field is None or field.type != "string" or column.upper() == USER_ID:
        return f"Users.{column} is not one of users.columns.categories"
    return None


def find_events_problem(events: Sequence[str], *, has_event_types: bool) -> str | None:
    """Why no interaction has one of these types of events; None if one may have it."""
    if has_event_types or EVENT_TYPE_VALUE in map(str.lower, events):
        return None
    return (
        f"Interactions.{EVENT_TYPE} is {EVENT_TYPE_VALUE!r} in every interaction: set"
        " ratings.columns.event_type"
    )


def explain_open_filter(expression: str | None) -> str | None:
    """Why the filter lets items through that the items file does not have, and what to write
    instead; None if it was not meant to leave them out.

    The expression must be one that can be parsed.
    """
    if expression is None:
        return None
    comparison = conditions.find_open_exclusion(expression)
    if comparison is None:
        return None
    wanted = "IN (…)" if comparison.operator == "NOT IN" else "= …"
    return (
        f"EXCLUDE … {comparison} lets items through that the items file does not have: write"
        f" INCLUDE ItemID WHERE {comparison.field} {wanted}"
    )


def find_attributes_problem(expression: str, schemas: Schemas) -> str | None:
    """Why the expression would match no items; None if it works."""
    if ITEMS not in schemas:
        return f"{expression!r} matches nothing: no items with metadata are declared"
    try:
        conditions.check_condition(parse_attributes(expression), ITEMS, schemas)
    except FilterExpressionError as error:
        return str(error)
    return None


def _explain_missing_field(dataset: str, field: str, schemas: Schemas) -> str | None:
    """What to declare for a missing field; None if it exists, or cannot be declared."""
    schema = schemas.get(dataset)
    if schema is not None and schema.field(field) is not None:
        return None
    if dataset in (ITEMS, USERS):
        name, block = DATASETS[dataset], dataset.lower()
        if schema is None:
            return f"{name}.{field} does not exist: no {block} are declared"
        columns = ", ".join(schema.columns)
        return f"{name}.{field} does not exist: {block}.columns declares only {columns}"
    if (dataset, field) == (INTERACTIONS, EVENT_TYPE):
        return f"Interactions.{EVENT_TYPE} does not exist: declare ratings.columns.event_type"
    return None


# Why an item is on the list, and which item of the person's own speaks for it, with its title and
# what the person did with it.
REASON, REASON_ITEM = "reason", "reason_item"
REASON_TITLE, REASON_EVENT = "reason_title", "reason_event"
REASONS = (REASON, REASON_ITEM, REASON_TITLE, REASON_EVENT)
# What lists have whatever is declared.
FIXED_COLUMNS = ("user_id", "rank", "item_id", "score", "arm")
# The id of a similar item, where `item_id` is the item whose list it is.
SIMILAR_ITEM_COLUMN = list_subjects.ITEMS.item_column
# Those columns of the items that Personalize does not get.
FOR_PEOPLE = ("title", "image", "link")


def name_published_column(column: str) -> str:
    """What the published lists call a declared column: PostgreSQL reads PRICE as price."""
    return column.lower()


def find_columns_problem(
    columns: Sequence[str], layout: AttributesLayout | None, *, has_event_types: bool
) -> str | None:
    """Why lists cannot have these columns; None if they can.

    layout: that of the items; None if none are declared.
    has_event_types: whether interactions may have types.
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
    """Why lists of similar items cannot have these columns; None if they can.

    layout: as of `find_columns_problem`.
    """
    reasons = [name for name in columns if name in REASONS]
    if reasons:
        names = " and ".join(reasons)
        return f"only lists of users have a {names}, as it comes from a user's history: omit it"
    if SIMILAR_ITEM_COLUMN in map(name_published_column, columns):
        return f"lists have a {SIMILAR_ITEM_COLUMN} of their own: give it another name in items"
    return find_columns_problem(columns, layout, has_event_types=True)


def _list_columns_of_items(layout: AttributesLayout | None) -> list[str]:
    """The columns of the items that lists can have, as they are declared."""
    if layout is None:
        return []
    for_people = [name for name in FOR_PEOPLE if name in layout.roles]
    return [*for_people, *layout.categories, *layout.numbers]
