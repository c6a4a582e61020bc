"""The settings of rules: one block for each rule, and `RuleSettings` with all of them.

The rules are applied in steps/lists/rules.py.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from batchrec_dagster.config.items_and_users import ItemIds
from batchrec_dagster.config.problems import Keys
from batchrec_dagster.config.settings import Day, Settings
from batchrec_dagster.personalize.filters import EXCLUDE_SEEN, build_exclude_events


def _require_event_types(events: list[str]) -> list[str]:
    """Return the events. Raises ValueError if there are none, or if an event type is impossible."""
    if not (events and all(events)):
        raise ValueError("name at least one type of event, such as [purchase], or omit it")
    if any(event == "*" or {'"', "\\"} & {*event} for event in events):
        raise ValueError(
            "write types of events, without quotes and backslashes; for any type omit it"
        )
    return events


EventTypes = Annotated[list[str], AfterValidator(_require_event_types)]


class ExcludeSeen(Settings):
    """The items to leave out because the user already had them.

    Without settings, every item that the user interacted with is left out.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    events: EventTypes | None = Field(
        default=None,
        description="Only items with an interaction of one of these types. Default: of any.",
        examples=[["purchase"]],
    )
    days: int | None = Field(
        default=None,
        ge=1,
        description="Only items of the last days before the newest interaction. Default: of any"
        " time.",
        examples=[60],
    )
    unless: str | None = Field(
        default=None,
        alias="except",
        description="A condition on items that people buy again, which are never left out.",
        examples=['ITEMS.CONSUMABLE = "yes"'],
    )

    @property
    def description(self) -> str:
        """The exclusion, such as `an item that its user had by purchase in the last 60 days`."""
        text = "an item that its user had"
        if self.events is not None:
            text += f" by {' or '.join(self.events)}"
        if self.days is not None:
            text += f" in the last {self.days} days"
        return text if self.unless is None else f"{text}, except items with {self.unless}"

    @property
    def filter_expression(self) -> str | None:
        """The equivalent filter in Personalize; None if Personalize's filters cannot express it.

        Personalize's filters know neither the time of an interaction nor two datasets in one
        expression.
        """
        if self.days is not None or self.unless is not None:
            return None
        return EXCLUDE_SEEN if self.events is None else build_exclude_events(self.events)


class BlockedItems(ItemIds):
    """Items that are in no list, from a file that is read again for every refresh."""

    block = "rules.block"


class PriceRange(Settings):
    """Items whose price is near the median price of the items that the user had.

    The median counts all items with a price that the user had by one of `events`, at any time. Each
    item counts once, with today's price. A user without such an item gets items of any price.
    """

    of: str = Field(
        description="The items' column with the price, one of items.columns.numbers.",
        examples=["PRICE"],
    )
    within: list[float] = Field(
        default=[0.5, 2.0],
        description="The lowest and the highest price, as multiples of the median price of the"
        " items that the user had by one of `events`.",
        examples=[[0.5, 2.0]],
    )
    events: EventTypes | None = Field(
        default=None,
        description="Which items count for the median: those that the user had by an event of one"
        " of these types. Default: of any type, so what was only looked at counts too.",
        examples=[["purchase"]],
    )

    @field_validator("within")
    @classmethod
    def _within_is_a_range(cls, within: list[float]) -> list[float]:
        if len(within) != 2 or not 0 <= within[0] < within[1]:
            raise ValueError("write two numbers, the lower one first, such as [0.5, 2.0]")
        return within


class Pin(Settings):
    """An item at a fixed rank of the list, for some users or all, and until a day or without end.

    The item is named, or is the best result of the model that meets a condition. If several pins
    have the same rank, the first pin with an item that the user may have applies. A pinned item
    obeys exclude_seen, block and only, and counts for max_per. A named item may have any price. An
    item that a condition chooses obeys price too.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    item: str | None = Field(
        default=None, description="The item's id. Either this or only.", examples=["4711"]
    )
    only: str | None = Field(
        default=None,
        description="A condition on an item. The best of the model's results that meets it, and"
        " that no earlier pin has, is put at the rank. Either this or item.",
        examples=["ITEMS.AGE_DAYS < 30"],
    )
    rank: int = Field(default=1, ge=1, description="Its place on the list, from 1.")
    until: Day | None = Field(
        default=None,
        description="The last day, by the clock of the run in UTC. Default: no end.",
        examples=["2026-12-24"],
    )
    users: str | None = Field(
        default=None,
        alias="for",
        description="A condition on the users who get it. Default: everybody.",
        examples=['USERS.COUNTRY = "AT"'],
    )

    @field_validator("item", mode="before")
    @classmethod
    def _item_is_text(cls, item: object) -> object:
        # YAML reads 4711 without quotes as a number.
        return str(item) if isinstance(item, int) and not isinstance(item, bool) else item

    @model_validator(mode="after")
    def _item_or_condition(self) -> Self:
        if (self.item is None) == (self.only is None):
            raise ValueError("write either item or only")
        return self

    @property
    def target(self) -> str:
        """The item's id, or the condition that the item meets."""
        return self.item or self.only or ""

    def is_over(self, today: date) -> bool:
        """Return whether the last day of the pin was before today."""
        return self.until is not None and self.until < today


class ItemRules(Settings):
    """The items that may be on lists."""

    block: BlockedItems | None = Field(
        default=None,
        description="Items that are in no list, from a file.",
        examples=[{"source": "data/blocked.csv", "column": "sku"}],
    )
    only: str | None = Field(
        default=None,
        description="A condition that every item of a list meets. An item without the value, or"
        " that is not in the items file, does not.",
        examples=["ITEMS.STOCK > 0"],
    )


class RuleSettings(ItemRules):
    """A shop's rules for its lists. They apply in the order of these settings, to a longer list.

    A list that the rules leave short is filled from the longer list, then with popular items, which
    obey the rules too. Conditions are written as in Personalize's filters, such as ITEMS.STOCK > 0.
    Conditions use the columns of `items`, and AGE_DAYS, the days since `created`.
    """

    price: PriceRange | None = Field(
        default=None,
        description="Only items that cost about the median of what the user's own items cost.",
        examples=[{"of": "PRICE", "within": [0.5, 2.0]}],
    )
    max_per: dict[str, Annotated[int, Field(ge=1, le=500)]] = Field(
        default_factory=dict,
        description="How many items of one value a list has at most, by the name of the category.",
        examples=[{"CATEGORY": 3}],
    )
    pin: list[Pin] = Field(
        default_factory=list,
        description="Items at fixed ranks, such as a campaign's, or the best new one.",
        examples=[
            [
                {"item": "4711", "rank": 1, "until": "2026-12-24", "for": 'USERS.COUNTRY = "AT"'},
                {"only": "ITEMS.AGE_DAYS < 30", "rank": 4},
            ]
        ],
    )

    @model_validator(mode="after")
    def _pins_can_all_apply(self) -> Self:
        of_everybody: dict[int, Pin] = {}
        for pin in self.pin:
            first = of_everybody.get(pin.rank)
            if first is not None and first.until is None:
                raise ValueError(
                    f"pin: {pin.target} has rank {pin.rank}, which {first.item} has for everybody"
                    " without an end: give one of them another rank, or put the one with `for` or"
                    " `until` first"
                )
            # A pin with a condition leaves its rank to the next pin if no result meets the
            # condition. So only a named item for everybody takes the rank from later pins.
            if pin.users is None and pin.item is not None:
                of_everybody.setdefault(pin.rank, pin)
        return self

    @property
    def conditions_on_items(self) -> dict[Keys, str]:
        """The conditions on items, by the keys of their settings."""
        conditions: dict[Keys, str | None] = {
            ("only",): self.only,
            **{("pin", number, "only"): pin.only for number, pin in enumerate(self.pin)},
        }
        return {keys: text for keys, text in conditions.items() if text is not None}

    @property
    def conditions_on_users(self) -> dict[Keys, str]:
        """The conditions on users, by the keys of their settings."""
        return {
            ("pin", number, "for"): pin.users
            for number, pin in enumerate(self.pin)
            if pin.users is not None
        }

    @property
    def reads_items(self) -> bool:
        """Whether a rule depends on the data of the items."""
        return bool(self.conditions_on_items or self.price or self.max_per)

    @property
    def reads_users(self) -> bool:
        """Whether a rule depends on the data of the users."""
        return bool(self.conditions_on_users)

    def find_conflict(self, num_results: int) -> str | None:
        """Return why no list with so many items can obey the rules; None if a list can."""
        for pin in self.pin:
            if pin.rank > num_results:
                return f"pin: {pin.target} has rank {pin.rank}, but a list has {num_results} items"
        return None
