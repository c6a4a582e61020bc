"""Finds out whether an object in the storage mentions people, without knowing its format."""

from __future__ import annotations

import codecs

from batchrec_dagster.erasure.people import People
from batchrec_dagster.storage.object_store import ObjectStore


def may_mention(store: ObjectStore, uri: str, people: People) -> bool:
    """Whether one of the ids is in the object's text.

    True for what is not text in UTF-8, such as an archive, which cannot be searched.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    # An id may be cut in two at the end of a piece.
    overlap, end = people.longest_form + 1, ""
    try:
        for chunk in store.chunks(uri):
            if b"\0" in chunk:
                return True
            text = end + decoder.decode(chunk)
            if people.is_mentioned(text):
                return True
            end = text[-overlap:]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return True
    return False
