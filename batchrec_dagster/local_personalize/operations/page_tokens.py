"""The tokens of the next page of a list, each valid only for the list that it comes from."""

from __future__ import annotations

import base64
import binascii
import json

from ..errors import ServiceError

_MAX_POSITION = 2**62
"""SQLite's integers have 64 bits."""


def write_token(last: int, *scope: str | None) -> str:
    """Return the token of the page that comes after the entry `last`.

    last: the sequence number or the position of the last entry so far, from 1.
    scope: what tells this list from others, such as its kind and the parent of its resources.
    """
    return base64.urlsafe_b64encode(json.dumps([last, *scope]).encode()).decode()


def read_token(token: str | None, *scope: str | None) -> int:
    """Return the `last` of `write_token`, or 0 for the first page, which has no token.

    Raises ServiceError if the token is not one of the list with this scope.
    """
    if token is None:
        return 0
    try:
        last, *token_scope = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        last, token_scope = None, []
    if type(last) is not int or not 0 < last < _MAX_POSITION or token_scope != list(scope):
        raise ServiceError(
            "The next token is not valid: send the previous page's token, unchanged.",
            "InvalidNextTokenException",
        )
    return last
