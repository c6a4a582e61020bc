"""Timestamps: from the forms of `Layout.timestamp_unit` to whole seconds since 1970."""

from __future__ import annotations

import re
from functools import partial

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation import layout

DAY = 86_400
_FRACTION = r"^([+-]?[0-9]+)\.[0-9]*\z"
_SCIENTIFIC = r"^[+-]?[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]{1,2}\z"
_DAYS = r"^[0-9]{1,7}(?:\.[0-9]*)?\z"

# The first that is in milliseconds and so on, by size.
_FIRST = {"ns": 10**17, "us": 10**14, "ms": 10**11, "s": 1}
_OF_DAY = r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,9})?)?"
_ZONE = r"(?: ?UTC|Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?"
_ISO = rf"^([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})(?:[T ]{_OF_DAY}{_ZONE})?\z"
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_NUMBERED = [(month, number) for number, month in enumerate(_MONTHS, start=1)]
_LONG = "january february march april may june july august september october november december"
# From the weekday of 1 January 1970 on; the rest of their names.
_DAYS_OF_WEEK = {
    **{"thu": "rsday", "fri": "day", "sat": "urday", "sun": "day", "mon": "day"},
    **{"tue": "sday", "wed": "nesday"},
}
_SPACE = r"\s*"
# As chrono reads them: up to so many digits after any spaces, words in any case.
_DIRECTIVES = {
    "Y": _SPACE + r"([+-]?[0-9]{1,4})",
    **dict.fromkeys("ymdHIMS", _SPACE + "([0-9]{1,2})"),
    "b": f"((?i:{'|'.join(_MONTHS)}))",
    "B": f"((?i:{'|'.join([*_LONG.split(), *_MONTHS])}))",
    "a": f"((?i:{'|'.join(_DAYS_OF_WEEK)}))",
    "A": f"((?i:{'|'.join(f'{day}(?:{rest})?' for day, rest in _DAYS_OF_WEEK.items())}))",
    "f": r"(\.[0-9]+)?",
    "p": "((?i:am|pm))",
    "z": _SPACE + r"([+-][0-9]{2}\s*:?\s*[0-9]{2})",
    "%": "()%",
}


def trimmed(text: Column) -> Column:
    """The text without spaces and tabs around it."""
    return F.call_function("btrim", text, F.lit(" \t"))


def whole_number(text: Column) -> Column:
    """The number; null where the text is not one, or beyond 64 bits."""
    number = trimmed(text)
    return F.when(number.rlike(r"^[+-]?[0-9]+\z"), number.cast("long"))


def epoch_number(text: Column) -> Column:
    """The number rounded down; null where the text is not one, or beyond 64 bits."""
    text = trimmed(text)
    integer = F.when(text.rlike(_FRACTION), F.regexp_extract(text, _FRACTION, 1).cast("long"))
    scientific = F.when(text.rlike(_SCIENTIFIC), F.floor(text.cast("double")))
    return F.coalesce(
        whole_number(text),
        integer - text.startswith("-").cast("long"),
        F.when(F.abs(scientific) < 2.0**63, scientific).cast("long"),
    )


def seconds(text: Column, unit: str, timezone: str | None = None) -> Column:
    """The time in whole seconds since 1970; null where the text has another form."""
    if unit == layout.NO_TIMES:
        return F.lit(layout.CONSTANT_TIME).cast("long")
    if unit in layout.EPOCH_UNITS:
        number, size = epoch_number(text), F.lit(layout.EPOCH_UNITS[unit])
        # Whole division rounds towards 0, and this is to round down.
        less = (number < 0) & (F.pmod(number, size) > 0)
        found = F.when(number.isin(*layout.END_OF_TIME), layout.FIRST_SENTINEL)
        return found.otherwise(F.call_function("div", number, size) - less.cast("long"))
    text = trimmed(text)
    if unit == layout.EXCEL_DAYS:
        days = F.when(text.rlike(_DAYS), text.cast("double"))
        return _in_zone(F.floor((days - layout.EXCEL_1970) * DAY + 0.5).cast("long"), timezone)
    return (_iso if unit in (layout.ISO8601, layout.DATETIME) else partial(_formatted, form=unit))(
        text, timezone=timezone
    )


def _in_zone(local: Column, timezone: str | None) -> Column:
    """Seconds since 1970 of what the clocks of this zone show; null for what they skip."""
    if timezone is None:
        return local
    shown = F.timestamp_seconds(local)
    moment = F.to_utc_timestamp(shown, timezone)
    exists = F.from_utc_timestamp(moment, timezone) == shown
    return F.when(local == 0, local).when(exists, F.unix_timestamp(moment))


def form(text: Column) -> Column:
    """What the text looks like: an epoch unit by its size, ISO8601, or null for neither, and for
    what stands for no time."""
    number, text = epoch_number(text), trimmed(text)
    nothing = (number == 0) | number.isin(*layout.END_OF_TIME)
    found = F.when(F.coalesce(nothing, F.lit(False)), F.lit(None).cast("string"))
    for unit, first in _FIRST.items():
        found = found.when(number >= first, F.lit(unit))
    stands = text.rlike(_ISO) & (text < "2100") & ~text.startswith("1970-01-01")
    return found.when(stands, F.lit(layout.ISO8601))


def _iso(text: Column, timezone: str | None) -> Column:
    def part(group: int) -> Column:
        return F.coalesce(F.regexp_extract(text, _ISO, group).cast("int"), F.lit(0))

    ahead = (part(8) * 3600 + part(9) * 60) * F.when(
        F.regexp_extract(text, _ISO, 7) == "-", -1
    ).otherwise(1)
    possible = (part(4) < 24) & (part(5) < 60) & (part(6) < 60)
    of_day = part(4) * 3600 + part(5) * 60 + part(6)
    local = _days(part(1), part(2), part(3)) * DAY + of_day
    has_zone = (F.regexp_extract(text, _ISO, 7) != "") | text.rlike(r"(?:Z|UTC)\z")
    moment = F.when(has_zone, local - ahead).otherwise(_in_zone(local, timezone))
    return F.when(text.rlike(_ISO) & possible, moment)


def _formatted(text: Column, form: str, timezone: str | None) -> Column:
    directives: list[str] = []
    pattern = "^"
    for token in re.findall(r"%.|\s+|[^%\s]+", form.replace(".%f", "%f")):
        if token.startswith("%"):
            directives.append(token[1])
            pattern += _DIRECTIVES[token[1]]
        else:
            pattern += _SPACE if token.isspace() else re.escape(token)
    pattern += r"\z"

    def part(directive: str) -> Column:
        return F.regexp_extract(text, pattern, directives.index(directive) + 1)

    def number(directive: str) -> Column:
        return part(directive).cast("int") if directive in directives else F.lit(0)

    if "Y" in directives:
        year = number("Y")
    else:
        year = F.when(number("y") < 70, number("y") + 2000).otherwise(number("y") + 1900)
    month = number("m")
    for name in ("b", "B"):
        if name in directives:
            months = F.create_map(*(F.lit(each) for pair in _NUMBERED for each in pair))
            month = F.element_at(months, F.lower(F.substring(part(name), 1, 3)))
    possible = text.rlike(pattern)
    hour = number("H")
    if "I" in directives:
        late = F.when(F.lower(part("p")) == "pm", 12).otherwise(0)
        hour = F.pmod(number("I"), F.lit(12)) + late
        possible &= number("I").between(1, 12)
    possible &= (hour < 24) & (number("M") < 60) & (number("S") < 60)
    ahead = F.lit(0)
    if "z" in directives:
        digits = F.regexp_replace(part("z"), r"[\s:+-]", "")
        possible &= F.substring(digits, 3, 2).cast("int") < 60
        ahead = (
            F.substring(digits, 1, 2).cast("int") * 3600
            + F.substring(digits, 3, 2).cast("int") * 60
        ) * F.when(part("z").startswith("-"), -1).otherwise(1)
    of_day = hour * 3600 + number("M") * 60 + number("S")
    days = _days(year, month, number("d"))
    for name in {"a", "A"} & set(directives):
        week = F.array(*map(F.lit, _DAYS_OF_WEEK))
        there = F.lower(F.substring(part(name), 1, 3))
        possible &= F.element_at(week, (F.pmod(days, F.lit(7)) + 1).cast("int")) == there
    local = days * DAY + of_day
    return F.when(possible, local - ahead if "z" in directives else _in_zone(local, timezone))


def _days(year: Column, month: Column, day: Column) -> Column:
    """Days since 1970; null for a day that does not exist."""
    return F.unix_date(F.make_date(year, month, day)).cast("long")
