"""The name of a copied file."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.preparation.sources.source import safe_filename


@given(st.text())
def test_every_name_becomes_a_plain_one(name: str) -> None:
    plain = safe_filename(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", plain)
    assert safe_filename(plain) == plain


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("/data/ratings.csv", "ratings.csv"),
        ("C:\\data\\my ratings.csv", "my_ratings.csv"),
        ("_hidden.csv", "hidden.csv"),
        ("..", "ratings"),
        ("a" * 200 + ".csv", "a" * 116 + ".csv"),
    ],
)
def test_names_stay_recognisable(name: str, plain: str) -> None:
    assert safe_filename(name) == plain
