"""Which columns of a file of users have the id, and what is known of a user."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from batchrec_dagster.cli.attribute_columns import (
    build_unknown_columns_error,
    choose_attribute_columns,
    recognise_id,
)
from batchrec_dagster.cli.recognised_source import RecognisedSource
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.preparation.column_names import find_columns
from batchrec_dagster.preparation.file_sample import FileSample

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


class UsersBlock:
    """The block `users`, for `recognise_attributes`."""

    roles = ("user", "categories", "numbers")

    def choose_layout(
        self,
        sample: FileSample,
        settings_of_ratings: Mapping[str, object],
    ) -> AttributesLayout:
        """How the file is read: with the columns that their names show, if they are not empty.

        Raises UnknownColumnsError.
        """
        user = recognise_id(sample, "user", settings_of_ratings)
        if user is None:
            raise build_unknown_columns_error(sample, "the column with the user's id", "users")
        free = [name for name in sample.columns if name != user and len(sample.read_cells(name))]
        attributes = choose_attribute_columns(
            sample,
            find_columns(free, CATEGORY_NAMES.split()),
            find_columns(free, NUMBER_NAMES.split()),
        )
        if not (attributes.categories or attributes.numbers):
            raise build_unknown_columns_error(sample, "a category or number", "users")
        return AttributesLayout(
            "user",
            user,
            delimiter=sample.delimiter or ",",
            header=sample.header,
            **vars(attributes),
        )

    def list_rated_ids(self, ratings: RecognisedSource) -> pl.Series:
        """The ids of the users that the ratings have."""
        return ratings.users

    def suggest_rules(self, layout: AttributesLayout, rows: pl.DataFrame) -> list[str]:
        """How lists go only to people who agreed, if that is known."""
        return _suggest_consent(layout, rows)


def _suggest_consent(layout: AttributesLayout, users: pl.DataFrame) -> list[str]:
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
