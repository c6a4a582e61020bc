"""The example shop of `batchrec init --example`, as a pipeline with a single list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from batchrec_dagster.cli.init import make_example_shop


def write_example_shop(folder: Path, *, with_sinks: bool = False) -> dict[str, Any]:
    """Write the shop's data, and return the attributes of a pipeline for its newsletter.

    The attributes have no name. The newsletter is the only list, and the recipe is
    aws-user-personalization.

    with_sinks: whether the pipeline has the example's sinks. Then it also has the sink for
        PostgreSQL, which the example has only as a comment.
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
    # With the empty block `interactions`, all ratings count. The function `declaration` would
    # otherwise count only ratings from 3.5 on.
    return {**attributes, "solution": {"recipe": "aws-user-personalization"}, "interactions": {}}
