"""Filter expressions: the one that batchrec itself asks for, and those of a declaration.

Source: Amazon Personalize developer guide, "Filter expressions" and "Batch inference".
"""

import re
from collections.abc import Iterable

# "*" stands for every event type. Only the latest FILTER_HISTORY interactions of a user and event
# type count, see formats.interactions.
EXCLUDE_SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'

# Of an expression, and of the values of a placeholder on an input line.
MAX_LENGTH = 2500
MAX_VALUE_LENGTH = 1000


def joined(*expressions: str) -> str:
    """One filter of several: a batch job takes no more than one."""
    return " | ".join(expressions)


def placeholders(expression: str) -> set[str]:
    """The names of the values that input lines have to bring: GENRES for $GENRES."""
    return set(re.findall(r"\$(\w+)", _without_texts(expression)))


def targets(expression: str) -> set[str]:
    """What it includes or excludes, in lower case: itemid, userid."""
    found = re.findall(r"\b(?:INCLUDE|EXCLUDE)\s+(\w+)", _without_texts(expression), re.IGNORECASE)
    return {target.lower() for target in found}


def looks_at_interactions(expression: str) -> bool:
    """Whether it speaks of a field of the Interactions dataset."""
    text = _without_texts(expression)
    return re.search(r"\bInteractions\s*\.", text, re.IGNORECASE) is not None


def filter_value(values: Iterable[str | float]) -> str:
    """A placeholder's values as an input line holds them: texts quoted, parted by commas."""
    return ",".join(f'"{value}"' if isinstance(value, str) else f"{value}" for value in values)


def _without_texts(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)
