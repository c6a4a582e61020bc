"""What `batchrec new` recognises in a file of users."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from batchrec_dagster.cli.attribute_columns import (
    build_unknown_columns_error,
    choose_attribute_columns,
    recognise_id,
)
from batchrec_dagster.cli.column_candidates import check_columns, open_sample
from batchrec_dagster.cli.recognised_source import (
    ReadingOptions,
    RecognisedSource,
    choose_declared_delimiter,
    describe_bad_rows,
    leave_out_defaults,
)
from batchrec_dagster.cli.unused_columns import find_unused_columns, name_columns
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.preparation.attributes import QUOTES_FIX, open_attributes_table
from batchrec_dagster.preparation.column_names import find_columns
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.preparation.user_attributes import UsersLayout, parse_user_attributes

CONSENT_NAMES = (
    "consent newsletter newsletterconsent marketingconsent emailconsent optin emailoptin"
    " newsletteroptin marketingoptin subscribed subscriber"
)
CATEGORY_NAMES = (
    "country countrycode region state city language locale gender sex occupation segment"
    f" customergroup customertype tier membership plan loyalty agegroup {CONSENT_NAMES}"
)
NUMBER_NAMES = "age birthyear yearofbirth"
# How files write that somebody agreed, in lower case.
AGREED = ("yes", "y", "true", "1", "ja", "oui", "si", "sí", "opt-in", "optin", "subscribed")


def recognise_users(
    source: str,
    file: RawFile,
    given_columns: Mapping[str, Column],
    options: ReadingOptions,
    ratings: RecognisedSource,
) -> RecognisedSource:
    """What is known of the users in this file, and how many they are.

    given_columns: the columns that need not be recognised, by their setting, such as
    categories.COUNTRY.
    ratings: what was recognised of the ratings of these users.

    Raises UnknownColumnsError, PreparationError.
    """
    reading = ReadSettings(delimiter=options.delimiter, columns=given_columns)
    with open_sample([file], reading, open_attributes_table, QUOTES_FIX) as sample:
        layout = _choose_layout(sample, given_columns, ratings)
        unused = find_unused_columns(sample, [*layout.roles.values()], layout.decimal)
    columns = {role: getattr(layout, role) for role in ("user", "categories", "numbers")}
    settings: dict[str, object] = {
        "source": source,
        "delimiter": choose_declared_delimiter(layout.delimiter, layout.user),
        "decimal": layout.decimal,
        "columns": leave_out_defaults(columns),
        "separator": layout.separator,
    }
    users = parse_user_attributes(file, layout)
    user_ids = users.good.get_column(USER_ID)
    warnings = []
    if bad_rows := users.bad.total:
        warnings.append(describe_bad_rows(bad_rows, users.rows, users.bad.examples[0], options))
        settings["on_bad_rows"] = "skip"
    known_count = int(ratings.users.is_in(user_ids.implode()).sum())
    if known_count < len(ratings.users) / 2:
        warnings.append(
            f"{file.name} has only {known_count:,} of the {len(ratings.users):,} users of the"
            f" ratings. Is {layout.user} the same id?"
        )
    return RecognisedSource(
        leave_out_defaults(settings),
        [f"{hide_query(source)}: {users.rows:,} rows", *name_columns(unused)],
        warnings,
        items=pl.Series(ITEM_ID, [], pl.String),
        users=user_ids,
        rules=_suggest_consent(layout, users.good),
    )


def _choose_layout(
    sample: FileSample, given_columns: Mapping[str, Column], ratings: RecognisedSource
) -> UsersLayout:
    """How the file is read: with the given columns, and those that their names show."""
    check_columns(sample, given_columns)
    user = given_columns.get("user") or recognise_id(sample, "user", ratings.settings)
    if user is None:
        raise build_unknown_columns_error(sample, "the column with the user's id", "--users-id COL")
    free = [name for name in sample.columns if name not in (user, *given_columns.values())]
    attributes = choose_attribute_columns(
        sample,
        given_columns,
        find_columns(free, CATEGORY_NAMES.split()),
        find_columns(free, NUMBER_NAMES.split()),
    )
    if not (attributes.categories or attributes.numbers):
        raise build_unknown_columns_error(
            sample, "a category or number", "--users-category, --users-number"
        )
    return UsersLayout(delimiter=sample.delimiter or ",", user=user, **vars(attributes))


def _suggest_consent(layout: UsersLayout, users: pl.DataFrame) -> list[str]:
    """Comments in the YAML that show how lists go only to people who agreed, if it is known."""
    names = [str(column) for column in layout.categories.values()]
    columns = set(find_columns(names, CONSENT_NAMES.split()))
    for field, column in layout.categories.items():
        values = users.get_column(field).drop_nulls().value_counts(sort=True).get_column(field)
        agreed = [value for value in values if value.lower() in AGREED]
        if column in columns and agreed:
            condition = f'USERS.{field} = "{agreed[0]}"'
            return ["# batch_users:", f"#   filter: {condition}  # who gets a list"]
    return []
