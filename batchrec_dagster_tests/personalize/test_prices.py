"""Tests of a file of prices: its effect on costs, and the messages about a wrong file."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.personalize.prices import Prices, PricesError


def test_a_file_changes_the_prices_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("import_per_gb: 0.06\ntraining_per_hour: 1\n")
    prices = Prices.read(file)
    assert prices == Prices(import_per_gb=0.06, training_per_hour=1.0)
    assert prices.price_import("items", 10**9).usd == pytest.approx(0.06)
    assert prices.price_training("aws-user-personalization", 2.0, 1000).usd == 2
    assert prices.recommendations_v2_per_1000_users == Prices().recommendations_v2_per_1000_users


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"import_per_tb: 0.06\n", "import_per_tb: write USD"),
        (b"import_per_gb: much\n", "import_per_gb: write USD, a number of 0 or more"),
        (b"import_per_gb: -1\n", "import_per_gb: write USD, a number of 0 or more"),
        (b"import_per_gb: .nan\n", "import_per_gb: write USD"),
        (b"", "the file: write USD"),
        (b"[1]", "the file: write USD"),
        (b"{", "is not YAML in UTF-8"),
        (b"[" * 5000, "is not YAML in UTF-8"),
        (b"a: \xff\n", "is not YAML in UTF-8"),
    ],
)
def test_a_wrong_file_is_named_with_its_problem(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_bytes(content)
    with pytest.raises(PricesError) as error:
        Prices.read(file)
    assert str(error.value).startswith(str(file))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match=r"own\.yaml cannot be read: No such file"):
        Prices.read(tmp_path / "own.yaml")
