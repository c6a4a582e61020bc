"""The pipelines of a code location, collected while their definitions are built.

Pipelines are declared in YAML, made by Python (`@dg.component_instance`), or by a component of the
team that makes thirty of them. Dagster can list the declared ones, but all of them go through
`BatchRecommendations.build_defs`, which adds them here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import dagster as dg

from batchrec_dagster.pipeline.declaration_errors import DeclarationError, Origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrec_dagster.config import Pipeline


class BuiltPipeline(NamedTuple):
    """A pipeline, and what declares it."""

    pipeline: Pipeline
    origin: Origin


class BuiltPipelines:
    """The pipelines of a code location whose definitions were built so far."""

    def __init__(self) -> None:
        self._by_name: dict[str, BuiltPipeline] = {}
        self._watched: dict[str, Pipeline] = {}
        self._watcher: str | None = None

    def add(self, pipeline: Pipeline, origin: Origin) -> None:
        """Add a pipeline that is being built. One that is built again takes its own place.

        Raises DeclarationError if another one has its name.
        """
        built = self._by_name.get(pipeline.name)
        if built is not None and (built.pipeline, built.origin.file) != (pipeline, origin.file):
            raise _build_same_name_error(pipeline.name, [built.origin, origin])
        self._by_name[pipeline.name] = BuiltPipeline(pipeline, origin)
        if pipeline.alerts.enabled:
            self._watched[pipeline.name] = pipeline
            self._watcher = self._watcher or pipeline.name

    @property
    def watched(self) -> Mapping[str, Pipeline]:
        """The pipelines that declare alerts, by name. It grows while others are built."""
        return self._watched

    @property
    def all(self) -> list[BuiltPipeline]:
        """Each pipeline with what declares it."""
        return [*self._by_name.values()]

    def brings_alerts(self, pipeline: Pipeline) -> bool:
        """Whether the sensors of alerts, which watch all pipelines, are in the definitions of this
        one."""
        return self._watcher == pipeline.name

    def __iter__(self) -> Iterator[Pipeline]:
        return (built.pipeline for built in self._by_name.values())


def _build_same_name_error(name: str, origins: list[Origin]) -> DeclarationError:
    """The error for a name that two pipelines have, a line for each of them.

    Dagster's own error names only an asset key.
    """
    lines = []
    for origin in sorted(origins, key=lambda origin: origin.file):
        others = [other.file for other in origins if other.file != origin.file]
        (other, *_) = others or [origin.file]
        message = f"{name} is also the name of the pipeline in {other}: rename one"
        lines.append(origin.describe_problem(("name",), message))
    return DeclarationError("\n".join(dict.fromkeys(lines)))


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
