"""Prices by region, from the file that batchrec ships or one of a deployment's own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.personalize.price_file import (
    DEFAULT_REGION,
    PRICE_NAMES,
    SHIPPED_PRICES,
    PricesError,
    parse_prices,
    read_price_file,
)
from batchrec_dagster.personalize.prices import PriceList

FILE = Path("own.yaml")
V2 = "aws-user-personalization-v2"
SHIPPED: dict[str, Any] = yaml.load(
    SHIPPED_PRICES.read_text(encoding="utf-8"), Loader=yaml.BaseLoader
)

numbers = st.floats(0, 1e6).map(lambda number: float(f"{number:.6g}"))
prices = st.fixed_dictionaries(
    {
        "usd": numbers | st.tuples(numbers, numbers).map(lambda pair: sorted(pair)),
        "source": st.text(),
    }
)


def with_own_region(tmp_path: Path, region: dict[str, Any]) -> Path:
    """A file that has the shipped prices, and these of eu-west-1."""
    file = tmp_path / "own.yaml"
    regions = {**SHIPPED["regions"], "eu-west-1": region}
    file.write_text(yaml.safe_dump({**SHIPPED, "regions": regions}))
    return file


def test_each_shipped_price_has_a_source_and_a_date_or_is_called_not_verified() -> None:
    content = read_price_file(SHIPPED_PRICES)
    # Prices of other regions are not known.
    assert list(content.regions) == [DEFAULT_REGION]
    shipped = content.regions[DEFAULT_REGION].by_name
    assert tuple(shipped) == PRICE_NAMES
    for price in shipped.values():
        has_source = bool(re.match(r"AWS's .*\(read 20\d\d-\d\d-\d\d\)$", price.source))
        assert price.is_verified == has_source
        assert price.least <= price.most
    assert {name for name, price in shipped.items() if not price.is_verified} == {
        "recommendations_per_1000_users",
        "segments_per_1000_users",
    }


def test_a_region_without_prices_takes_those_of_us_east_1_and_says_so() -> None:
    here, elsewhere = PriceList.read(), PriceList.read("ap-south-1")
    assert here.prices == elsewhere.prices
    costs = [elsewhere.price_import("items", 10**9), elsewhere.price_recommendations(V2, 1000)]
    summary = elsewhere.summarize(costs)
    assert summary.startswith("0.20 USD, at the prices of 2026-11-26 in us-east-1: ")
    assert summary.endswith(
        "; an estimate, as those of ap-south-1 are not known: set BATCHREC_PRICES"
    )
    assert here.summarize([here.price_import("items", 10**9)]) == (
        "at most 0.05 USD, at the prices of 2026-11-26 in us-east-1: importing 1.00 GB of items"
        " 0.05"
    )


def test_a_region_has_its_own_prices_and_those_that_it_does_not_list(tmp_path: Path) -> None:
    own = {
        "as_of": "2026-12-01",
        "import_per_gb": {"usd": 0.06, "source": "the bill"},
        "recommendations_v2_per_1000_users": {"usd": [0.1, 0.2], "source": "not verified"},
    }
    here = PriceList.read("eu-west-1", with_own_region(tmp_path, own))
    imported = here.price_import("items", 10**9)
    assert here.summarize([imported]) == (
        "at most 0.06 USD, at the prices of 2026-12-01 in eu-west-1: importing 1.00 GB of items"
        " 0.06"
    )
    lists = here.price_recommendations(V2, 1000)
    assert (lists.least, lists.middle, lists.usd) == pytest.approx((0.1, 0.15, 0.2))
    assert lists.doubts == {"recommendations_v2_per_1000_users is not verified"}
    segments = here.price_segments(1, 1000)
    assert segments.usd == PriceList.read().price_segments(1, 1000).usd
    assert segments.doubts == {
        "segments_per_1000_users is not verified",
        "segments_per_1000_users is that of us-east-1",
    }


@given(regions=st.dictionaries(st.sampled_from(PRICE_NAMES), prices), as_of=st.dates())
def test_each_price_is_the_regions_own_or_that_of_us_east_1(
    regions: dict[str, Any], as_of: Any
) -> None:
    content = copy.deepcopy(SHIPPED)
    content["regions"]["eu-west-1"] = {**regions, "as_of": as_of.isoformat()}
    parsed = parse_prices(FILE, content)
    assert parsed.regions["eu-west-1"].as_of == as_of.isoformat()
    own = parsed.regions["eu-west-1"].by_name
    assert set(own) == set(regions)
    for name, price in own.items():
        usd = regions[name]["usd"]
        expected = usd if isinstance(usd, list) else [usd, usd]
        assert [price.least, price.most] == expected


NO_USD: list[object] = ["-1", "cheap", ["1", "-1"], ["1"], ["2", "1"], "inf", "nan", "", {}, []]


def change(*keys: str, to: object) -> Callable[[], dict[str, Any]]:
    """The shipped content with another value, or without the key if it is None."""

    def make() -> dict[str, Any]:
        content = copy.deepcopy(SHIPPED)
        place = content
        for key in keys[:-1]:
            place = place[key]
        if to is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to
        return content

    return make


IN_DEFAULT = ("regions", DEFAULT_REGION)
USD = "expected USD: a number from 0, or [from, to]"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        *(
            (
                change(*IN_DEFAULT, "training_per_hour", "usd", to=usd),
                f"regions.us-east-1.training_per_hour.usd is {usd!r}: {USD}",
            )
            for usd in NO_USD
        ),
        (
            change(*IN_DEFAULT, "training_per_hour", to="0.24"),
            "regions.us-east-1.training_per_hour is '0.24': expected usd and source",
        ),
        (
            change(*IN_DEFAULT, "training_per_hour", "source", to=None),
            "regions.us-east-1.training_per_hour.source is missing: expected where the price is",
        ),
        (
            change(*IN_DEFAULT, "training_per_hour", to=None),
            "regions.us-east-1.training_per_hour is missing: expected usd and source, because",
        ),
        (
            change("regions", to={"eu-west-1": {}}),
            "regions.us-east-1.import_per_gb is missing: expected usd and source, because other",
        ),
        (
            change(*IN_DEFAULT, "storage_per_gb", to={"usd": "1", "source": "?"}),
            "regions.us-east-1.storage_per_gb is not a key: expected as_of, import_per_gb,",
        ),
        (
            change("import_per_gb", to={"usd": "1", "source": "?"}),
            "import_per_gb is not a key: expected as_of, regions, training_hours,",
        ),
        (
            change(*IN_DEFAULT, "import_per_gb", "eur", to="1"),
            "regions.us-east-1.import_per_gb.eur is not a key: expected usd, source",
        ),
        (change("regions", to=None), "regions is missing: expected us-east-1 and other regions"),
        (change("regions", to={}), "regions is {}: expected us-east-1 and other regions"),
        (
            change("regions", "Ireland", to={}),
            "regions.Ireland is 'Ireland': expected a region, such as eu-west-1",
        ),
        (
            change("regions", "eu-west-1", to=""),
            "regions.eu-west-1 is '': expected the region's prices by their names",
        ),
        (change("as_of", to="today"), "as_of is 'today': expected the date of the prices, such"),
        (change("training_hours", to="-2"), "training_hours is '-2': expected a number of hours"),
        (
            change("training_hours_per_million_interactions", to=["2", "1"]),
            "training_hours_per_million_interactions is ['2', '1']: expected hours: [from, to]",
        ),
        (lambda: [], "has no keys: expected as_of, regions"),
    ],
)
def test_what_is_no_price_is_refused_with_its_key_and_what_is_expected(
    make: Callable[[], object], problem: str
) -> None:
    with pytest.raises(PricesError) as error:
        parse_prices(FILE, make())
    message = str(error.value)
    assert message.startswith(f"own.yaml: {problem}")
    assert message.endswith(f". Compare with {SHIPPED_PRICES}")


@given(
    content=st.recursive(
        st.text() | st.integers() | st.none() | st.floats(),
        lambda values: (
            st.lists(values)
            | st.dictionaries(st.sampled_from(["usd", "source", "as_of", *PRICE_NAMES]), values)
            | st.dictionaries(st.sampled_from([DEFAULT_REGION, "eu-west-1", "x"]), values)
            | st.fixed_dictionaries({"as_of": values, "regions": values})
        ),
    ),
    key=st.sampled_from(["as_of", "regions", "training_hours", "more", None]),
)
def test_any_content_is_read_or_refused_with_a_message(content: object, key: str | None) -> None:
    problem = ""
    try:
        parse_prices(FILE, content if key is None else {**SHIPPED, key: content})
    except PricesError as error:
        problem = str(error)
    assert not problem or re.match(r"own\.yaml: .+expected .+", problem, re.DOTALL)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"as_of: [", "is not YAML: "),
        (b"\xff", "is not UTF-8: save it again as UTF-8"),
        (b"[" * 5000, "is not YAML: "),
    ],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(data)
    with pytest.raises(PricesError, match=re.escape(f"{file} {problem}")):
        read_price_file(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match=r"own\.yaml cannot be read: No such file"):
        read_price_file(tmp_path / "own.yaml")
