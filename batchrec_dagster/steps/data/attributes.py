"""Reading and checking the copied file of items or of users."""

from __future__ import annotations

from collections.abc import Sequence

from batchrec_dagster.config import fingerprint
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP
from batchrec_dagster.preparation.attributes import (
    AttributeRows,
    AttributesLayout,
    parse_attributes,
)
from batchrec_dagster.steps.data.checks import check_rows_readable, refuse_unreadable
from batchrec_dagster.steps.data.data_sizes import DataSize
from batchrec_dagster.steps.data.raw_files import CopiedFile, open_copies
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

CODE_VERSION = "2"


def fingerprint_layout(layout: AttributesLayout) -> str:
    """Return a fingerprint of the settings and the code that decide the prepared tables."""
    return f"{CODE_VERSION}-{fingerprint(layout)}"


def read_attribute_rows(
    copies: Sequence[CopiedFile],
    storage: Storage,
    layout: AttributesLayout,
    erased_users: ErasedUsers = NOBODY,
) -> AttributeRows:
    """Return the rows of the copied file.

    erased_users: the erased users. Their rows are left out of a file of users.
    Raises UserError, and PreparationError if the file is unreadable. `inspect_attributes` detects
    an unreadable file earlier.
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
    """Return the check of the copied file's rows, and the size of its data.

    on_bad_rows: the setting on_bad_rows; "skip" drops rows that cannot be read.
    erased_users: the erased users. Their rows are left out of a file of users.
    Raises UserError, and Refused if the file cannot be read.
    """
    check_name = f"{layout.block}_readable"
    with refuse_unreadable(check_name):
        rows = read_attribute_rows(copies, storage, layout, erased_users)
    check = check_rows_readable(check_name, layout.block, rows.rows, rows.bad, on_bad_rows)
    values = {}
    for role in layout.roles:
        # A role names the use of a column. The role of a category or a number ends with the name of
        # its column in the dataset, such as categories.GENRES.
        column = CREATION_TIMESTAMP if role == "created" else role.rpartition(".")[2]
        if role != layout.subject:
            values[layout.setting(role)] = rows.good.get_column(column).count()
    return check, DataSize(rows=rows.good.height, values=values)
