"""What `dg scaffold defs batchrec_dagster.BatchRecommendations NAME` writes: a declaration
that loads, and runs on the sample, to go on from."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import dagster as dg
from pydantic import BaseModel, Field

# What editors complete and check a declaration by; see `schema`.
SCHEMA_FILE = Path(__file__).parents[1] / "config" / "defs.schema.json"

_DECLARATION = """\
# yaml-language-server: $schema={schema}
# The README explains every setting; what is left out has its default.
type: {type}

attributes:
  name: {name}

  ratings:
    # The sample, or a file of your own: a path, a folder, s3://bucket/key or https://…
    source: {source}

  recommendations:
    num_results: 25
    exclude_seen: true          # leave out what the user already had

  schedule:
    cron: "0 3 * * *"
    timezone: UTC
    enabled: false
"""


class ScaffoldParams(BaseModel):
    """What the command can be told."""

    ratings: str = Field(
        default="sample://hetrec", description="Where the ratings are, as ratings.source has it."
    )


class PipelineScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes defs.yaml, or component.py when Python is asked for."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        if request.scaffold_format != "yaml":
            dg.scaffold_component(request)
            return
        folder = request.target_path
        text = _DECLARATION.format(
            schema=Path(os.path.relpath(SCHEMA_FILE, folder)).as_posix(),
            type=request.type_name,
            name=_name(folder.name),
            source=json.dumps(request.params.ratings, ensure_ascii=False),
        )
        file = folder / "defs.yaml"
        if request.append:
            text = f"{file.read_text(encoding='utf-8')}---\n{text}"
        file.write_text(text, encoding="utf-8")


def _name(folder: str) -> str:
    """The folder's name as a pipeline may have it."""
    name = re.sub(r"\W", "_", folder, flags=re.ASCII)[:32]
    return name if name[:1].isalpha() else f"p{name}"[:32]
