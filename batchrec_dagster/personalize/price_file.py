"""The file of prices: `prices.yaml` here, or one of a deployment's own, read and validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from batchrec_dagster.personalize.errors import PersonalizeError

SHIPPED_PRICES = Path(__file__).with_name("prices.yaml")
# The environment variable with the path of another file.
PRICES_VARIABLE = "BATCHREC_PRICES"
# The region whose prices must be complete. Other regions list those that differ.
DEFAULT_REGION = "us-east-1"

# How the source of a price begins that nobody has read anywhere.
NOT_VERIFIED = "not verified"


class PricesError(PersonalizeError):
    """A file of prices cannot be used. The message names the file, the key and what is expected."""


def _read_number(value: object) -> float:
    """A finite number that is not negative. Raises ValueError."""
    number = float(value) if isinstance(value, str | int | float) else math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(value)
    return number


def _read_range(value: object) -> tuple[float, float]:
    """A pair of such numbers, the smaller first. Raises ValueError."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(value)
    least, most = map(_read_number, value)
    if least > most:
        raise ValueError(value)
    return least, most


def _read_number_or_range(value: object) -> tuple[float, float]:
    if isinstance(value, list | tuple):
        return _read_range(value)
    return _read_number(value), _read_number(value)


def _read_date(value: object) -> str:
    return date.fromisoformat(str(value)).isoformat()


Number = Annotated[float, BeforeValidator(_read_number)]
Range = Annotated[tuple[float, float], BeforeValidator(_read_range)]
NumberOrRange = Annotated[tuple[float, float], BeforeValidator(_read_number_or_range)]
IsoDate = Annotated[str, BeforeValidator(_read_date)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,}(-[a-z]+)+-\d+$")]


class Price(BaseModel):
    """A price in USD, or a range, and where it is from."""

    model_config = ConfigDict(extra="forbid")

    usd: NumberOrRange
    source: str

    @property
    def least(self) -> float:
        return self.usd[0]

    @property
    def most(self) -> float:
        return self.usd[1]

    @property
    def is_verified(self) -> bool:
        return not self.source.startswith(NOT_VERIFIED)


class RegionPrices(BaseModel):
    """A region's prices by unit of work. One that is missing is that of `DEFAULT_REGION`."""

    model_config = ConfigDict(extra="forbid")

    as_of: IsoDate | None = None
    """The date that they are from, if not the file's."""
    import_per_gb: Price | None = None
    training_per_hour: Price | None = None
    training_v2_per_1000_interactions: Price | None = None
    recommendations_per_1000_users: Price | None = None
    recommendations_v2_per_1000_users: Price | None = None
    segments_per_1000_users: Price | None = None

    @property
    def by_name(self) -> dict[str, Price]:
        """The prices that are in the file."""
        return {name: price for name, price in self if isinstance(price, Price)}


PRICE_NAMES = tuple(
    name for name, info in RegionPrices.model_fields.items() if Price in get_args(info.annotation)
)


class PriceFile(BaseModel):
    """The content of a file of prices."""

    model_config = ConfigDict(extra="forbid")

    as_of: IsoDate
    """The date that the prices are from."""
    regions: Annotated[dict[Region, RegionPrices], Field(min_length=1)]
    training_hours: Number
    """The hours that a training is billed for at least."""
    training_hours_per_million_interactions: Range
    """How many more for each million interactions."""


# What each key has to be, for errors.
_EXPECTED = {
    "as_of": "the date of the prices, such as 2026-11-26",
    "regions": f"{DEFAULT_REGION} and other regions, each with its prices",
    "[key]": "a region, such as eu-west-1",
    "usd": "USD: a number from 0, or [from, to]",
    "source": f"where the price is from, or a text that begins with: {NOT_VERIFIED}",
    "training_hours": "a number of hours from 0",
    "training_hours_per_million_interactions": "hours: [from, to]",
    **dict.fromkeys(PRICE_NAMES, "usd and source"),
}


def read_price_file(file: Path) -> PriceFile:
    """The file's prices, validated. Raises PricesError."""
    try:
        # Scalars stay texts, so that errors show them as they are written.
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except OSError as error:
        raise PricesError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PricesError(f"{file} is not UTF-8: save it again as UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        line = str(error).replace("\n", " ")
        raise PricesError(f"{file} is not YAML: {line}") from error
    return parse_prices(file, content)


def parse_prices(file: Path, content: object) -> PriceFile:
    """The prices of a file with this content. Raises PricesError."""
    if not isinstance(content, Mapping):
        raise _make_error(file, f"has no keys: expected {', '.join(PriceFile.model_fields)}")
    try:
        prices = PriceFile.model_validate(content)
    except ValidationError as error:
        raise _make_error(file, _describe_problem(error.errors()[0])) from error
    own = prices.regions.get(DEFAULT_REGION, RegionPrices()).by_name
    for name in PRICE_NAMES:
        if name not in own:
            key = f"regions.{DEFAULT_REGION}.{name}"
            raise _make_error(
                file,
                f"{key} is missing: expected {_EXPECTED[name]}, because other regions take from"
                f" {DEFAULT_REGION} what they do not list",
            )
    return prices


def _describe_problem(problem: Mapping[str, Any]) -> str:
    """What is wrong with a key, and what is expected."""
    keys = [str(key) for key in problem["loc"] if key != "[key]"]
    path = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        return f"{path} is not a key: expected {', '.join(_list_keys(keys))}"
    name = next(str(key) for key in reversed(problem["loc"]) if key in _EXPECTED)
    if name == "regions" and len(keys) == 2:
        return f"{path} is {problem['input']!r}: expected the region's prices by their names"
    if problem["type"] == "missing":
        return f"{path} is missing: expected {_EXPECTED[name]}"
    return f"{path} is {problem['input']!r}: expected {_EXPECTED[name]}"


def _list_keys(keys: list[str]) -> list[str]:
    """The keys that may be where these keys, the last one unknown, lead to."""
    models: dict[int, type[BaseModel]] = {1: PriceFile, 3: RegionPrices}
    return [*models.get(len(keys), Price).model_fields]


def _make_error(file: Path, problem: str) -> PricesError:
    fix = "" if file == SHIPPED_PRICES else f". Compare with {SHIPPED_PRICES}"
    return PricesError(f"{file}: {problem}{fix}")
