"""Files from the web."""

import pytest

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster_tests.guard.servers.web import Page, Web
from batchrec_dagster_tests.preparation.sources.support import CONTENT, DESTINATION, MONDAY, Place


def test_a_web_file_is_copied_and_not_kept(place: Place, web: Web) -> None:
    web.pages["/a/ratings.csv"] = Page(CONTENT)
    url = web.url("/a/ratings.csv?X-Amz-Signature=secret")
    assert place.copy_content(url) == CONTENT
    assert place.find_filename(url) == "ratings.csv"
    assert [path.suffix for path in place.cache.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Page(CONTENT, etag='"1"'), Page(CONTENT, etag='"2"')),
        (Page(CONTENT, etag=None, last_modified=MONDAY), Page(CONTENT + b"x", etag=None)),
        (Page(CONTENT, etag='"1"'), Page(CONTENT + b"x", etag='"1"')),
        (Page(CONTENT, etag=None), Page(CONTENT[::-1], etag=None)),
    ],
)
def test_a_web_files_fingerprint_changes_when_it_may_have(
    place: Place, web: Web, before: Page, after: Page
) -> None:
    url = web.url("/ratings.csv")
    web.pages["/ratings.csv"] = before
    first = place.compute_fingerprint(url)
    assert place.compute_fingerprint(url) == first
    web.pages["/ratings.csv"] = after
    assert place.compute_fingerprint(url) != first


def test_a_web_file_without_a_version_is_always_fetched_anew(place: Place, web: Web) -> None:
    web.pages["/ratings.csv"] = Page(CONTENT, etag=None)
    assert place.copy_content(web.url("/ratings.csv")) == CONTENT
    web.pages["/ratings.csv"] = Page(CONTENT[::-1], etag=None)
    assert place.copy_content(web.url("/ratings.csv")) == CONTENT[::-1]


def test_a_missing_web_file_is_said_so_without_its_signature(place: Place, web: Web) -> None:
    message = place.read_refusal(web.url("/a.csv?X-Amz-Signature=secret"))
    assert f"there is no {web.url('/a.csv')} (404" in message
    assert "secret" not in message


def test_an_empty_web_file_is_refused(place: Place, web: Web) -> None:
    web.pages["/a.csv"] = Page(b"")
    with pytest.raises(SourceError, match="it is empty"):
        place.compute_fingerprint(web.url("/a.csv"))
    with pytest.raises(SourceError, match="it is empty"):
        place.copy(web.url("/a.csv"))
    assert place.store.head(DESTINATION) is None


def test_what_is_cut_for_good_changes_nothing_that_is_published(place: Place, web: Web) -> None:
    place.store.put(DESTINATION, b"yesterday's")
    # The answers are for the first look, for a download that is cut, and then for errors only.
    web.pages["/a.csv"] = Page(CONTENT, cuts=[0, 9], statuses=[200, 200, *[500] * 20])
    with pytest.raises(SourceError, match=r"^cannot fetch .*/a.csv: the server says 500"):
        place.copy(web.url("/a.csv"))
    assert [path for path, _ in web.requests] == ["/a.csv"] * 5
    assert place.store.get(DESTINATION) == b"yesterday's"
