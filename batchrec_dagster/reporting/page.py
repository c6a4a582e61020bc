"""The report as one page of HTML that asks nothing of anyone.

All that comes from data is escaped by jinja2, or stands as JSON in a script element that is never
run; the page's own script and styles are the only ones that its policy allows.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from batchrec_dagster.reporting import figures
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.people import HISTORY, LIST, shortened

TEMPLATE = Path(__file__).parent / "template"
MOST_SEGMENTS = 50


def page(facts: Facts) -> str:
    """The HTML of the report."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": figures.count,
        "percent": figures.percent,
        "score": figures.score,
        "shortened": shortened,
        "breakable": breakable,
    }
    style = (TEMPLATE / "report.css").read_text(encoding="utf-8")
    script = (TEMPLATE / "report.js").read_text(encoding="utf-8")
    people = facts.people
    return environment.get_template("report.html").render(
        facts=facts,
        run=facts.run,
        metrics=figures.METRICS,
        quality=[f for f in (figures.quality(facts), figures.runs(facts)) if f],
        audience=[figures.lengths(facts)],
        offer=[figures.bands(facts), *figures.kinds(facts)],
        segments=facts.segments[:MOST_SEGMENTS],
        history=HISTORY,
        length=min(LIST, facts.offer.longest),
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_digest(script)}'",
                f"style-src '{_digest(style)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=json_for_html({"items": people.items, "people": people.people}),
    )


def breakable(text: str) -> Markup:
    """A heading that may go on in the next line before an @."""
    return Markup("<wbr>@").join(text.split("@"))


def json_for_html(value: Any) -> Markup:
    """JSON that can stand in a script element: nothing in it ends the element or begins another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
