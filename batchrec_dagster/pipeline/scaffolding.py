"""Scaffolding for `dg scaffold defs`, which writes the file of a new pipeline."""

from __future__ import annotations

import json
import re

import dagster as dg
from pydantic import BaseModel, Field

from batchrec_dagster.config.new_declaration import (
    format_declaration,
    format_scalar,
    ignore_home_in_git,
)

# The dict has the settings of a defs.yaml. Type checkers accept such a dict, but not keyword
# arguments with nested dicts, because the fields are models.
_PYTHON = """\
import dagster as dg
from batchrec_dagster import BatchRecommendations


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> BatchRecommendations:
    return BatchRecommendations.model_validate(
        {{
            "name": {name},
            # The sample, or your own data: a path, a folder, s3://bucket/key or https://…
            "ratings": {{"source": {source}}},
            "recommendations": {{"num_results": 25, "exclude_seen": True}},
            "schedule": {{"cron": "0 3 * * *", "timezone": "UTC", "enabled": False}},
        }}
    )
"""


class ScaffoldParams(BaseModel):
    """The parameters of `dg scaffold defs`."""

    ratings: str = Field(
        default="sample://hetrec", description="The ratings: any value of ratings.source."
    )


class PipelineScaffolder(dg.Scaffolder[ScaffoldParams]):
    """A scaffolder that writes defs.yaml, or component.py if Python is requested."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        folder = request.target_path
        if request.project_root is not None:
            ignore_home_in_git(request.project_root)
        if request.scaffold_format != "yaml":
            code = _PYTHON.format(
                name=json.dumps(_make_pipeline_name(folder.name)),
                source=json.dumps(request.params.ratings, ensure_ascii=False),
            )
            (folder / "component.py").write_text(code, encoding="utf-8")
            return
        source = (
            "    # The sample, or your own data: a path, a folder, s3://bucket/key or https://…"
        )
        ratings = [source, f"    source: {format_scalar(request.params.ratings)}"]
        text = format_declaration(folder, _make_pipeline_name(folder.name), ratings)
        file = folder / "defs.yaml"
        if request.append:
            text = f"{file.read_text(encoding='utf-8')}---\n{text}"
        file.write_text(text, encoding="utf-8")


def _make_pipeline_name(folder_name: str) -> str:
    """Return a valid pipeline name that is made from the folder's name."""
    name = re.sub(r"\W", "_", folder_name, flags=re.ASCII)[:32]
    return name if name[:1].isalpha() else f"p{name}"[:32]
