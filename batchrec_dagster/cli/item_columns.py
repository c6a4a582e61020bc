"""Which columns of a file of items have the id, the title and what Personalize learns of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from batchrec_dagster.cli.attribute_columns import (
    build_unknown_columns_error,
    choose_attribute_columns,
    recognise_id,
)
from batchrec_dagster.cli.column_candidates import has_times
from batchrec_dagster.cli.recognised_source import RecognisedSource
from batchrec_dagster.preparation.attributes import HTTP_ADDRESS, AttributesLayout
from batchrec_dagster.preparation.column_names import find_columns
from batchrec_dagster.preparation.file_sample import FileSample

ITEM_NAMES = {
    "title": "title name itemtitle itemname movietitle producttitle productname booktitle",
    "categories": "genres genre categories category tags brand department producttype",
    "numbers": "year price releaseyear yearofpublication",
    "created": "createdat created creationtimestamp added addedat releasedate publishedat"
    " published",
    "image": "image imageurl imagelink img imgurl picture pictureurl photo photourl thumbnail"
    " thumbnailurl cover coverurl",
    "link": "link url href producturl productlink productpage itemurl itemlink page pageurl"
    " detailurl",
}
# What the address of a picture ends with, before the query.
PICTURE = r"(?i)^[^?#]+\.(?:avif|gif|jpe?g|png|webp)(?:[?#]|$)"


class ItemsBlock:
    """The block `items`, for `recognise_attributes`."""

    roles = ("item", "title", "image", "link", "created", "categories", "numbers")

    def choose_layout(
        self,
        sample: FileSample,
        settings_of_ratings: Mapping[str, object],
    ) -> AttributesLayout:
        """How the file is read: with the columns that their names show, if what is in them fits.

        Raises UnknownColumnsError.
        """
        item = recognise_id(sample, "item", settings_of_ratings)
        if item is None:
            raise build_unknown_columns_error(sample, "the column with the item's id", "items")
        free = [name for name in sample.columns if name != item]
        candidates = {
            role: [name for name in find_columns(free, words.split()) if _fits(sample, role, name)]
            for role, words in ITEM_NAMES.items()
        }
        title, created = (next(iter(candidates[role]), None) for role in ("title", "created"))
        image, link = None, None
        if title is not None:
            image = _recognise_image(sample, free)
            link = _recognise_link(sample, [name for name in free if name != image])
        attributes = choose_attribute_columns(
            sample, candidates["categories"], candidates["numbers"]
        )
        if not (title or created or attributes.categories or attributes.numbers):
            raise build_unknown_columns_error(sample, "a title, category or number", "items")
        return AttributesLayout(
            header=sample.header,
            delimiter=sample.delimiter or ",",
            subject="item",
            id=item,
            title=title,
            image=image,
            link=link,
            created=created,
            **vars(attributes),
        )

    def list_rated_ids(self, ratings: RecognisedSource) -> pl.Series:
        """The ids of the items that the ratings have."""
        return ratings.items

    def suggest_rules(self, layout: AttributesLayout, rows: pl.DataFrame) -> list[str]:
        """None: rules on items stand in another block."""
        return []


def _fits(sample: FileSample, role: str, column: str) -> bool:
    """Whether what is in the column fits the role that its name shows."""
    if role == "created":
        return has_times(sample, column)
    return len(sample.read_cells(column)) > 0


def _recognise_image(sample: FileSample, columns: Sequence[str]) -> str | None:
    """The column of addresses with the name of pictures, or else with addresses of pictures."""
    columns_of_addresses = [name for name in columns if _has_addresses(sample, name)]
    for name in find_columns(columns_of_addresses, ITEM_NAMES["image"].split()):
        return name
    for name in columns_of_addresses:
        if sample.read_cells(name).str.contains(PICTURE).all():
            return name
    return None


def _recognise_link(sample: FileSample, columns: Sequence[str]) -> str | None:
    """The column of addresses with the name of pages."""
    columns_of_addresses = [name for name in columns if _has_addresses(sample, name)]
    return next(iter(find_columns(columns_of_addresses, ITEM_NAMES["link"].split())), None)


def _has_addresses(sample: FileSample, column: str) -> bool:
    """Whether all cells of the column are http(s) addresses, and there are any."""
    cells = sample.read_cells(column)
    return len(cells) > 0 and bool(cells.str.contains(HTTP_ADDRESS).all())
