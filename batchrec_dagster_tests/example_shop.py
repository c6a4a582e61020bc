"""The example shop of `batchrec init --example shop`, with a model that trains at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from batchrec_dagster.cli.init import make_example_shop


def write_example_shop(folder: Path) -> dict[str, Any]:
    """Write the data, and return the attributes of the pipeline, without its name and sinks.

    The model is the most popular items.
    """
    texts = make_example_shop("example")
    declaration = yaml.safe_load(texts.pop("example/defs/shop/defs.yaml"))
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    attributes: dict[str, Any] = declaration["attributes"]
    del attributes["name"], attributes["sinks"]
    # The tests' own declarations count ratings from 3.5 on unless this block is there.
    return {**attributes, "solution": {"recipe": "aws-popularity-count"}, "interactions": {}}
