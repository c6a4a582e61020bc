"""The tags of the resources that batchrec creates on AWS, from an environment variable."""

from __future__ import annotations

from collections.abc import Iterator

from batchrec_dagster.personalize.api import OWN_TAGS

# AWS's rules for tags: "Tag naming limits and requirements" in Tagging AWS Resources.
MAX_KEY_CHARACTERS, MAX_VALUE_CHARACTERS, MAX_TAGS = 128, 256, 50
PUNCTUATION_OF_TAGS = " +-=._:/@"

EXAMPLE_OF_TAGS = "team=data,cost-center=42"


def parse_tags(text: str) -> dict[str, str]:
    """Return the tags that the text sets, such as `team=data,cost-center=42`.

    Raises ValueError with a message that names the pair and the rule that it breaks.
    """
    tags: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"{pair!r} is not KEY=VALUE; write {EXAMPLE_OF_TAGS}")
        problem = next(_find_tag_problems(key, value), None)
        if problem:
            raise ValueError(f"{pair!r}: {problem}")
        if key in tags:
            raise ValueError(f"{pair!r}: the key {key} is there twice")
        tags[key] = value
    most = MAX_TAGS - len(OWN_TAGS)
    if len(tags) > most:
        raise ValueError(
            f"there are {len(tags)} tags: set at most {most}, because a resource has at most"
            f" {MAX_TAGS} and batchrec sets {len(OWN_TAGS)} of them"
        )
    return tags


def _find_tag_problems(key: str, value: str) -> Iterator[str]:
    """Yield the reasons why AWS or batchrec would reject a tag."""
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        yield f"a key has 1 to {MAX_KEY_CHARACTERS} characters"
    if len(value) > MAX_VALUE_CHARACTERS:
        yield f"a value has at most {MAX_VALUE_CHARACTERS} characters"
    for character in key + value:
        if not (character.isalpha() or character.isnumeric() or character in PUNCTUATION_OF_TAGS):
            yield (
                f"{character!r} is not allowed: keys and values have letters, numbers, spaces and"
                f" {' '.join(PUNCTUATION_OF_TAGS.strip())}"
            )
    if key.lower().startswith("aws:"):
        yield "AWS keeps the keys that begin with aws: for itself"
    if key.lower().startswith("batchrec:"):
        yield "batchrec sets the keys that begin with batchrec: itself"
