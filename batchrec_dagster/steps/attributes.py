"""Reads and checks the copied file of items or of users."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.config import fingerprint
from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP
from batchrec_dagster.preparation.attributes import (
    AttributeRows,
    AttributesLayout,
    parse_attributes,
)
from batchrec_dagster.steps.checks import check_rows_readable, refuse_unreadable
from batchrec_dagster.steps.data_sizes import DataSize
from batchrec_dagster.steps.raw_files import CopiedFile, open_copies
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

CODE_VERSION = "2"


def fingerprint_layout(layout: AttributesLayout) -> str:
    """A fingerprint of what the tables depend on besides the file: settings and code."""
    return f"{CODE_VERSION}-{fingerprint(layout)}"


def read_attribute_rows(
    copies: Sequence[CopiedFile],
    storage: Storage,
    layout: AttributesLayout,
    erased_users: ErasedUsers = NOBODY,
) -> AttributeRows:
    """The rows of the copied file.

    erased_users: the users who were erased, whose rows a file of users has left out.
    Raises UserError, and PreparationError unless `inspect_attributes` has passed it.
    """
    with open_copies(copies, storage) as (raw_file,):
        return parse_attributes(raw_file, layout, erased_users)


def inspect_attributes(
    copies: Sequence[CopiedFile],
    storage: Storage,
    layout: AttributesLayout,
    on_bad_rows: str,
    erased_users: ErasedUsers = NOBODY,
) -> tuple[Finding, DataSize]:
    """The verdict on the copied file, and how much is in it.

    erased_users: as of `read_attribute_rows`.
    Raises UserError, and Refused if the file cannot be read.
    """
    check_name = f"{layout.block}_readable"
    with refuse_unreadable(check_name):
        rows = read_attribute_rows(copies, storage, layout, erased_users)
    check = check_rows_readable(check_name, layout.block, rows.rows, rows.bad, on_bad_rows)
    values = {}
    for role in layout.roles:
        # A category or a number has its name in its role, such as categories.GENRES.
        column = CREATION_TIMESTAMP if role == "created" else role.rpartition(".")[2]
        if role != layout.subject:
            values[layout.setting(role)] = rows.good.get_column(column).count()
    return check, DataSize(rows=rows.good.height, values=values)
