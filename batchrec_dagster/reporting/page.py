"""The report as one HTML page that loads nothing from elsewhere.

Data are either escaped by jinja2, or they are JSON in a script element that never runs. The page's
policy allows only its own script and styles.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.reporting.badges import judge_concentration, judge_ndcg, judge_service
from batchrec_dagster.reporting.drawing.svg import draw_svg
from batchrec_dagster.reporting.facts import Facts
from batchrec_dagster.reporting.figures import (
    draw_bands,
    draw_categories,
    draw_groups,
    draw_popularity,
    name_metrics,
)
from batchrec_dagster.reporting.people import HISTORY, LIST, shorten_title
from batchrec_dagster.reporting.sections import (
    Badge,
    Figure,
    FigureGroup,
    format_count,
    format_percent,
    format_score,
    mark_days,
)

TEMPLATE = Path(__file__).parent / "template"
# The page shows this many segments.
MOST_SEGMENTS = 50


def make_environment() -> Environment:
    """The environment of the templates of pages, which escapes all data."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": format_count,
        "draw_svg": draw_svg,
        "percent": format_percent,
        "score": format_score,
        "short_title": shorten_title,
        "with_breaks": allow_breaks,
        "with_days": mark_days,
        "sentence": _capitalize,
    }
    return environment


def read_style() -> str:
    """The style sheet of all pages."""
    return _read_compactly("report.css")


def read_script(*names: str) -> str:
    """The scripts with these names, in one."""
    return "".join(map(_read_compactly, names))


def _read_compactly(name: str) -> str:
    """The lines of the template's file, without indentation and without comments of one line."""
    text = (TEMPLATE / name).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith(("//", "/*")))


def render_page(facts: Facts) -> str:
    """The HTML of the report, about 200 kB for 200 users."""
    environment = make_environment()
    style = read_style()
    script = read_script("page.js", "lookup.js")
    people = facts.people
    has_images = any(item[-2] for item in people.items)
    quality_figures = [draw_popularity(facts), draw_groups(facts)]
    catalogue_figures, catalogue_groups = _draw_catalogue_section(facts)
    return environment.get_template("report.html").render(
        facts=facts,
        run=facts.run,
        metrics=name_metrics(facts.run.success),
        popular=_find_popular(facts),
        badges=_judge_tiles(facts),
        intervals=_find_intervals(facts),
        quality_figures=[figure for figure in quality_figures if figure is not None],
        bands=draw_bands(facts),
        catalogue_figures=catalogue_figures,
        catalogue_groups=catalogue_groups,
        sections=[section for section in facts.sections if not section.is_quiet],
        quiet_sections=[section for section in facts.sections if section.is_quiet],
        segments=facts.segments[:MOST_SEGMENTS],
        history_length=HISTORY,
        list_length=min(LIST, facts.catalogue.longest),
        has_images=has_images,
        # The page loads pictures only when the reader allows it.
        policy=build_policy(
            style, script, pictures="data: https: http:" if has_images else "data:"
        ),
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=encode_json_for_html(asdict(people)),
    )


def _draw_catalogue_section(facts: Facts) -> tuple[list[Figure], list[FigureGroup]]:
    """The figures of categories: of one, or of several behind one line."""
    categories = list(draw_categories(facts))
    if len(categories) < 2:
        return categories, []
    title = f"{', '.join(facts.catalogue.values)} in lists and histories"
    return [], [FigureGroup("categories", title, categories[0].fold, categories)]


def _judge_tiles(facts: Facts) -> dict[str, Badge | None]:
    """The badges of the template's tiles, by their metric or fact."""
    verdict_facts = facts.verdict_facts
    return {
        NDCG: judge_ndcg(verdict_facts),
        "top_lists": judge_concentration(verdict_facts),
        "served": judge_service(facts.requested, facts.audience.served),
    }


def _find_intervals(facts: Facts) -> dict[str, tuple[float, float]]:
    """The 95% interval of the model's NDCG@25 by Personalize's name of it; empty if not known."""
    tested = facts.run.tested
    interval = tested.ndcg.interval if tested is not None else None
    return {NDCG: interval} if interval is not None else {}


def _find_popular(facts: Facts) -> dict[str, float]:
    """The NDCG@25 of the most popular items by Personalize's name of it; empty if not known."""
    recent = facts.run.recent
    measurements = (facts.verdict_facts.popular, recent.ndcg if recent is not None else None)
    values = [ndcg for ndcg in measurements if ndcg is not None]
    return {NDCG: max(values)} if values else {}


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def allow_breaks(text: str) -> Markup:
    """The heading, which may wrap before an @."""
    return Markup("<wbr>@").join(text.split("@"))


def build_policy(style: str, script: str, *, pictures: str) -> str:
    """The content security policy of a page, which allows its own style and script alone.

    pictures: the sources of pictures that it allows.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{hash_source(script)}'",
            f"style-src '{hash_source(style)}'",
            f"img-src {pictures}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def encode_json_for_html(value: Any) -> Markup:
    """The value as JSON for a script element.

    No character in it can end the element or start another.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704


def hash_source(text: str) -> str:
    """The source of an inline script or style, as a content security policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
