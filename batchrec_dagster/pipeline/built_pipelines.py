"""The pipelines of a code location, collected while their definitions are built.

Pipelines are declared in YAML, made by Python (`@dg.component_instance`), or by a component of the
team that makes thirty of them. Dagster can list the declared ones, but all of them go through
`BatchRecommendations.build_defs`, which adds them here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import dagster as dg

from batchrec_dagster.config.declaration_errors import build_same_name_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrec_dagster.config import Pipeline


class _BuiltPipeline(NamedTuple):
    pipeline: Pipeline
    place: Path
    """The file that declares it, or the one of the component that made it."""


class BuiltPipelines:
    """The pipelines of a code location whose definitions were built so far."""

    def __init__(self) -> None:
        self._by_name: dict[str, _BuiltPipeline] = {}
        self._watched: dict[str, Pipeline] = {}
        self._watcher: str | None = None

    def add(self, pipeline: Pipeline, place: Path) -> None:
        """Add a pipeline that is being built. One that is built again takes its own place.

        Raises DeclarationError if another one has its name.
        """
        built = self._by_name.get(pipeline.name)
        if built is not None and built.pipeline is not pipeline and built != (pipeline, place):
            raise build_same_name_error(pipeline.name, [built.place, place])
        self._by_name[pipeline.name] = _BuiltPipeline(pipeline, place)
        if pipeline.alerts.enabled:
            self._watched[pipeline.name] = pipeline
            self._watcher = self._watcher or pipeline.name

    @property
    def watched(self) -> Mapping[str, Pipeline]:
        """The pipelines that declare alerts, by name. It grows while others are built."""
        return self._watched

    @property
    def places(self) -> list[tuple[Pipeline, Path]]:
        """Each pipeline with the file that declares or makes it."""
        return [(built.pipeline, built.place) for built in self._by_name.values()]

    def brings_alerts(self, pipeline: Pipeline) -> bool:
        """Whether the sensors of alerts, which watch all pipelines, are in the definitions of this
        one."""
        return self._watcher == pipeline.name

    def __iter__(self) -> Iterator[Pipeline]:
        return (built.pipeline for built in self._by_name.values())


# The keys are the trees' trackers, because two trees of the same folder are equal, even if they
# have built different things.
_pipelines_of_tree: WeakKeyDictionary[object, BuiltPipelines] = WeakKeyDictionary()


def get_built_pipelines(tree: dg.ComponentTree) -> BuiltPipelines:
    """The pipelines of the code location that were built so far."""
    return _pipelines_of_tree.setdefault(tree.state_tracker, BuiltPipelines())


def find_built_pipelines(definitions: dg.Definitions) -> BuiltPipelines:
    """The pipelines of what `load_pipelines` returned; none for a project without definitions."""
    tree = definitions.component_tree
    return BuiltPipelines() if tree is None else get_built_pipelines(tree)
