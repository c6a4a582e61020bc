"""Batch inference jobs: recommended or similar items for every input line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from batchrec_dagster.personalize import formats

from ..batch_lines import AnswerLines, InputLine
from ..engine.blend_model import EXPLORATION_WEIGHT, MAX_AGE, BlendModel
from ..engine.data import Interactions
from ..engine.serve import Lists, recommend
from ..engine.similar import SimilarItems
from ..errors import InvalidInputError
from ..filter_masks import ItemFilter
from ..jobs import Job
from ..resources import ApiRequest, Kind, NewResource
from .batch_jobs import DEFAULT_RESULTS, TrainedVersion, check_batch_request, run_batch_job
from .training_data import read_histories

# The options of itemExplorationConfig, with the largest value and the range in words.
_EXPLORATION_OPTIONS = {
    "explorationWeight": (1.0, "from 0 to 1"),
    "explorationItemAgeCutOff": (1e9, "of days"),
}


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    _, filter_traits = check_batch_request(request, segments=False)
    if params.get("batchInferenceJobMode") == "THEME_GENERATION":
        raise InvalidInputError("Themes (THEME_GENERATION) are not supported locally.")
    if "themeGenerationConfig" in params:
        raise InvalidInputError("themeGenerationConfig is valid only in mode THEME_GENERATION.")
    config = params.get("batchInferenceJobConfig", {})
    _check_exploration(config.get("itemExplorationConfig", {}))
    body = {
        "batchInferenceJobMode": "BATCH_INFERENCE",
        "batchInferenceJobConfig": config or None,
        "numResults": params.get("numResults", DEFAULT_RESULTS),
    }
    state: dict[str, Any] = {}
    if filter_traits:
        state["filter_interactions"] = request.filter_interactions
    return NewResource(body, state)


def _check_exploration(config: Mapping[str, str]) -> None:
    """Raise InvalidInputError if an `itemExplorationConfig` has unknown options or bad values.

    The job's configuration also has `rankingInfluence`, which the service model checks.
    """
    for name, text in config.items():
        if name not in _EXPLORATION_OPTIONS:
            raise InvalidInputError(
                f"itemExplorationConfig has no {name}; it has: {', '.join(_EXPLORATION_OPTIONS)}."
            )
        largest, range_text = _EXPLORATION_OPTIONS[name]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= largest:
            raise InvalidInputError(f"{name} must be a number {range_text}, but it is {text!r}.")


@dataclass(frozen=True)
class Recommender:
    """A model with the current interactions and the job's options."""

    model: BlendModel | SimilarItems
    interactions: Interactions | None
    """The interactions of all users; None for similar items, which do not depend on a user."""
    num_results: int
    filter: ItemFilter | None = None

    def answer_lines(self, lines: Sequence[InputLine]) -> Iterator[str]:
        """Yield the output line of each input line."""
        answers = self._list_items([line.subject for line in lines if line.problem is None])
        for line in lines:
            if line.problem is None:
                yield self._format(line, *next(answers))
            else:
                error = f"User error: {line.problem}"
                yield formats.format_inference_line(line.content, [], error=error)

    def _list_items(self, subjects: Sequence[str]) -> Iterator[tuple[list[str], list[float]]]:
        """Yield the items for each user or item, best first, and their scores."""
        users = subjects if self.interactions is not None else [None] * len(subjects)
        exclude = self.filter.exclude_for(users) if self.filter is not None else None
        length = min(self.num_results, len(self.model.item_ids))
        chunks: Iterator[Lists]
        if isinstance(self.model, SimilarItems):
            chunks = self.model.list_similar(subjects, length, exclude)
        else:
            assert self.interactions is not None
            chunks = recommend(self.model, subjects, self.interactions, length, exclude)
        for chunk in chunks:
            # Short lists are padded with -1.
            lengths = (chunk.items >= 0).sum(axis=1)
            for positions, scores, n in zip(chunk.items, chunk.scores, lengths, strict=True):
                yield self.model.item_ids[positions[:n]].tolist(), scores[:n].tolist()

    def _format(self, line: InputLine, items: list[str], scores: list[float]) -> str:
        if self.interactions is None:
            return formats.format_inference_line(line.content, items)
        return formats.format_inference_line(line.content, items, scores)


def _make_answers(job: Job, trained: TrainedVersion) -> AnswerLines:
    """Load the interactions and the filter, and return the function that answers lines.

    Raises JobFailedError.
    """
    version, recipe, model, group_arn, filter_expression = trained
    assert isinstance(model, BlendModel | SimilarItems)
    job.report_progress(f"{recipe.name}: {len(model.item_ids):,} items")
    interactions = None
    if isinstance(model, BlendModel):
        interactions = read_histories(job, version)
        job.report_progress(f"{len(interactions):,} interactions")
    model = _apply_config(job, model)
    item_filter = None
    if filter_expression:
        latest = job.resource.state["filter_interactions"]
        read = job.make_reader().make_group_reader(group_arn)
        item_filter = ItemFilter(filter_expression, read, model.item_ids, latest)
        if isinstance(model, BlendModel) and item_filter.excludes_history:
            model = model.dropping_history()
    return Recommender(
        model,
        interactions,
        job.resource.body["numResults"],
        item_filter,
    ).answer_lines


def _apply_config(job: Job, model: BlendModel | SimilarItems) -> BlendModel | SimilarItems:
    """Return the model with the job's exploration options, and log the options without effect."""
    stored_config = job.resource.body.get("batchInferenceJobConfig", {})
    config = {name: options for name, options in stored_config.items() if options}
    if isinstance(model, BlendModel) and model.new_items is not None:
        exploration = config.pop("itemExplorationConfig", {})
        weight = float(exploration.get("explorationWeight", EXPLORATION_WEIGHT))
        max_age = float(exploration.get("explorationItemAgeCutOff", MAX_AGE))
        model = model.with_exploration(weight, max_age)
    if config:
        job.report_progress(f"{' and '.join(config)}: stored, without effect locally")
    return model


BATCH_INFERENCE_JOB = Kind(
    "BatchInferenceJob",
    _create,
    parent_member="solutionVersionArn",
    perform=partial(run_batch_job, make_answers=_make_answers),
    turn="inference",
)
