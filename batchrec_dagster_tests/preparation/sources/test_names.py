"""The sample, and what is no source."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.parsing import parse_file, parse_source
from batchrec_dagster.preparation.sources.source import safe_filename
from batchrec_dagster.samples import generator
from batchrec_dagster_tests.preparation.sources.support import (
    Place,
)


def test_the_sample_is_a_source(place: Place) -> None:
    assert place.copy_content("sample://hetrec/movies.dat") == generator.FILES["movies.dat"]()
    assert place.find_filename("sample://hetrec") == "user_ratedmovies-timestamps.dat"
    assert place.compute_fingerprint("sample://hetrec") == generator.FINGERPRINT


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "the source is empty: write a path, s3://"),
        (" ", "the source is empty"),
        ("a\nb.csv", "'a\\nb.csv' has an invisible character in it"),
        ("ftp://host/a.csv", "ftp:// is not supported; write a path, s3://"),
        ("file:///a.csv", "file:// is not supported"),
        ("s3:/bucket/a.csv", "two slashes after the colon"),
        ("s3://bucket", "it names a bucket or a folder"),
        ("s3://bucket/folder/", "it names a bucket or a folder"),
        ("s3://bucket/../a.csv", "is not allowed"),
        ("https:///a.csv", "there is no host"),
        ("https://host:port/a.csv", "it is not a web address"),
        ("https://me:secret@host/a.csv", "it has a password in it"),
        ("https://host/my ratings.csv", "a space is %20"),
        ("ml.zip!/", "after !/ comes the path"),
        ("sample://hetrec!/a.csv", "leave out !/ and what follows"),
        ("sample://movies", "the only sample is sample://hetrec"),
        ("sample://hetrec/tags.dat", "sample://hetrec has the files user_rated"),
    ],
)
def test_what_is_no_source_is_refused_before_a_look(source: str, reason: str) -> None:
    with pytest.raises(SourceError, match=re.escape(reason)) as error:
        parse_file(source)
    assert "\n" not in str(error.value)


def test_a_query_is_not_shown_where_it_may_be_a_signature() -> None:
    with pytest.raises(SourceError) as error:
        parse_file("https://host/my ratings?signature=secret")
    assert str(error.value).startswith("https://host/my ratings: ")
    assert "secret" not in str(error.value)


def find_refusal(source: str) -> str | None:
    try:
        parse_file(source)
    except SourceError as error:
        return str(error)
    return None


@given(st.text())
def test_every_text_is_a_source_or_refused_in_one_line(source: str) -> None:
    assert len((find_refusal(source) or "").splitlines()) <= 1


SCHEMES = st.sampled_from(["s3", "http", "https", "sample", "ftp", "S3", ""])


@given(SCHEMES, st.text("ab/:@[]!?#%. \\\0é", max_size=20))
def test_every_address_is_a_source_or_refused_in_one_line(scheme: str, path: str) -> None:
    assert len((find_refusal(f"{scheme}://{path}") or "").splitlines()) <= 1


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


@pytest.mark.parametrize("member", ["", "!/b.csv"])
def test_a_password_in_an_address_is_not_repeated(member: str) -> None:
    with pytest.raises(SourceError, match="it has a password in it") as error:
        parse_source(f"https://me:secret@example.com/a.zip{member or '?b'}")
    assert "secret" not in str(error.value)
