"""The example shop of `batchrec init --example`, with a model that trains at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from batchrec_dagster.cli.init import make_example_shop


def write_example_shop(folder: Path, *, with_sinks: bool = False) -> dict[str, Any]:
    """Write the data, and return the attributes of the newsletter as a pipeline, without its name.

    The newsletter is the only list, and the model is the most popular items.

    with_sinks: whether it has sinks, with that for PostgreSQL, which is a comment in the example.
    """
    texts = make_example_shop("example")
    declaration_text = texts.pop("example/defs/shop/defs.yaml")
    assert "    # postgres:" in declaration_text
    declaration = yaml.safe_load(declaration_text.replace("    # postgres:", "    postgres:"))
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    attributes: dict[str, Any] = declaration["attributes"]
    newsletter = attributes["lists"]["newsletter"]
    for name in ("name", "lists", "similar_items"):
        del attributes[name]
    attributes["batch_users"] = newsletter.pop("users")
    sinks = newsletter.pop("sinks")
    attributes["recommendations"] = newsletter
    if with_sinks:
        attributes["sinks"] = sinks
    # The tests' own declarations count ratings from 3.5 on unless this block is there.
    return {**attributes, "solution": {"recipe": "aws-user-personalization"}, "interactions": {}}
