"""The page as one HTML file that loads nothing from elsewhere.

Data are escaped by Jinja, or are JSON in a script element that never runs. The page's content
security policy allows only the page's own script and styles.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.reporting.insight.page import Page
from batchrec_dagster.reporting.insight.people import People
from batchrec_dagster.reporting.views import first_screen, page_checks, sections
from batchrec_dagster.reporting.views.blocks import Bar, Fact, Judged, Title

TEMPLATE = Path(__file__).parent / "template"
# The maximum number of people that the page shows without a script.
PEOPLE_IN_VIEW = 20


def render_html(page: Page) -> str:
    """Return the HTML of the page about a list."""
    style, script = _read_compactly("page.css"), _read_compactly("page.js")
    people = page.people
    has_images = any(item.image for item in people.items)
    return (
        _make_environment()
        .get_template("page.html")
        .render(
            page=page,
            verdict=page.verdict,
            strip=[*first_screen.build_strip(page)],
            last_night=first_screen.explain_last_night(page),
            comparisons=first_screen.build_comparisons(page),
            sections=sections.build_sections(page),
            checks=page_checks.build_checks(page),
            people=_choose_people(people),
            items=people.items,
            served=people.served,
            has_images=has_images,
            made_at=first_screen.format_time_in_utc(page.made_at),
            # The page loads pictures only when its reader allows it.
            policy=_build_policy(style, script, pictures="data: https:" if has_images else "data:"),
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            data=encode_json(people.model_dump(include={"items", "people"}, mode="json")),
        )
    )


def _choose_people(people: People) -> list[int]:
    """Return the indexes of the people that the page shows without a script.

    They are an even sample, after the person with the median number of interactions. The median is
    that of the people with a history, or of all people if nobody has one.
    """
    with_history = [index for index, person in enumerate(people.people) if person.history]
    indexes = with_history or [*range(len(people.people))]
    if not indexes:
        return []
    by_length = sorted(indexes, key=lambda index: people.people[index].interactions)
    first = by_length[len(by_length) // 2]
    step = max(1, -(-len(people.people) // PEOPLE_IN_VIEW))
    other_indexes = [index for index in range(0, len(people.people), step) if index != first]
    return [first, *other_indexes[: PEOPLE_IN_VIEW - 1]]


def _make_environment() -> Environment:
    """Return the environment of the templates, which escapes all data."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data"] = _mark_number
    kinds = {"number": Number, "fact": Fact, "bar": Bar, "title": Title, "judged": Judged}
    for name, kind in kinds.items():
        environment.tests[name] = lambda value, kind=kind: isinstance(value, kind)
    return environment


def _mark_number(value: float, text: str) -> Markup:
    """Return a number as an element with a text for people and a value for programs."""
    return Markup('<data value="{}">{}</data>').format(value, text)


def _read_compactly(name: str) -> str:
    """Return the lines of the template's file, without indentation and one-line comments."""
    text = (TEMPLATE / name).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith(("//", "/*")))


def _build_policy(style: str, script: str, *, pictures: str) -> str:
    """Return the content security policy of the page, which allows only its own style and script.

    pictures: the sources of pictures that the policy allows.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash_source(script)}'",
            f"style-src '{_hash_source(style)}'",
            f"img-src {pictures}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash_source(text: str) -> str:
    """Return the hash that names an inline script or style in a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def encode_json(value: Any) -> Markup:
    """Return the value as JSON for a script element.

    No character in the JSON can end the element or start another one.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704
