"""The people to erase, by their ids, and how their ids are recognised in texts."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from batchrec_dagster.reporting.markdown import escape

# What takes the place of an id in a text.
ERASED = "[erased]"
# A word in a text; ids are looked up by their longest one.
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class People:
    """The people to erase."""

    ids: frozenset[str]

    @classmethod
    def of(cls, ids: Iterable[str]) -> People:
        """The people with these ids."""
        return cls(frozenset(ids))

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, user: object) -> bool:
        return user in self.ids

    @cached_property
    def series(self) -> pl.Series:
        """The ids, in order."""
        return pl.Series("user_id", sorted(self.ids), pl.String)

    def are_in(self, column: str) -> pl.Expr:
        """Whether a row's value in the column is one of the ids; false for none."""
        return pl.col(column).is_in(self.series.implode()).fill_null(value=False)

    def is_mentioned(self, text: str) -> bool:
        """Whether one of the ids is in the text, as a whole word.

        An id also counts where it is written as Markdown, HTML or JSON write it.
        """
        return any(pattern.search(text) for pattern in self._find_patterns(text))

    def redact(self, text: str) -> str:
        """The text with ERASED in the place of each id."""
        for pattern in self._find_patterns(text):
            text = pattern.sub(ERASED, text)
        return text

    @property
    def longest_form(self) -> int:
        """The number of characters of the longest id, as it may be written in a text."""
        return max((len(form) for user in self.ids for form in _write_forms(user)), default=0)

    def _find_patterns(self, text: str) -> Iterator[re.Pattern[str]]:
        """The patterns of the ids that may be in the text. A short look-up rules most ids out."""
        words = self._users_by_word
        known_words = words.keys() & set(_WORD.findall(text)) if words else set()
        users = {user for word in known_words for user in words[word]} | self._users_without_words
        for user in sorted(users, key=len, reverse=True):
            yield self._compile(user)

    @cached_property
    def _users_by_word(self) -> dict[str, list[str]]:
        """The ids that have letters or digits, by the longest word of each way to write them."""
        users: dict[str, list[str]] = {}
        for user in self.ids:
            for form in _write_forms(user):
                words = _WORD.findall(form)
                if words:
                    users.setdefault(max(words, key=len), []).append(user)
        return users

    @cached_property
    def _users_without_words(self) -> frozenset[str]:
        return frozenset(user for user in self.ids if not _WORD.search(user))

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {}

    def _compile(self, user: str) -> re.Pattern[str]:
        if user not in self._patterns:
            forms = sorted(_write_forms(user), key=len, reverse=True)
            written = "|".join(map(re.escape, forms))
            before = r"(?<![^\W_])" if _is_word_character(user[0]) else ""
            after = r"(?![^\W_])" if _is_word_character(user[-1]) else ""
            if user.isdecimal():
                # Not the day of a date, nor the minutes of a time.
                before += r"(?<!\d[-:])"
                after += r"(?![-:]\d)"
            self._patterns[user] = re.compile(f"{before}(?:{written}){after}")
        return self._patterns[user]


def _is_word_character(character: str) -> bool:
    return _WORD.match(character) is not None


def _write_forms(user: str) -> set[str]:
    """The id as it is, and as Markdown, HTML, Python and JSON write it."""
    texts = [json.dumps(user)[1:-1], json.dumps(user, ensure_ascii=False)[1:-1]]
    # As JSON in a page of HTML, where these characters could end the element.
    in_page = re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", texts[1])
    forms = {user, escape(user), html.escape(user), repr(user)[1:-1], *texts, in_page}
    return {form for form in forms if form}
