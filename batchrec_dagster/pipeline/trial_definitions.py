"""What Dagster loads for the run of a trial, which is not in the project's code location.

`batchrec run --trial` starts it, and says in the environment what to try.
"""

import json
import os
from functools import cache
from importlib import import_module
from pathlib import Path

import dagster as dg

from batchrec_dagster.config.trial import Trial
from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.loading import load_components

# The environment variable with what `describe_run` wrote.
TRIAL_VARIABLE = "_BATCHREC_TRIAL"


def describe_run(module: str, defs: Path, file: Path, pipeline: str, trial: Trial) -> str:
    """What the run of a trial has to know, for the environment of its process.

    module: the project's module.
    defs: its folder of pipelines.
    file: the file that declares the pipeline.
    """
    return json.dumps([module, str(defs), str(file), pipeline, trial.to_json()])


def load_pipeline(defs: Path, file: Path, name: str) -> BatchRecommendations:
    """The pipeline that the file declares, without those of other files.

    Raises DeclarationError.
    """
    components = load_components(defs, file.parent, BatchRecommendations)
    return next(component for component in components if component.name == name)


@dg.definitions
@cache
def defs() -> dg.Definitions:
    """The trial's assets, with those of the project if the trial reads one of them."""
    module, folder, file, name, trial = json.loads(os.environ[TRIAL_VARIABLE])
    pipeline = load_pipeline(Path(folder), Path(file), name).make_trial(Trial.from_json(trial))
    definitions = pipeline.build_trial_defs()
    if not pipeline.upstream:
        return definitions
    project = import_module(f"{module}.definitions").defs
    if not isinstance(project, dg.Definitions):
        project = project()
    return dg.Definitions.merge(project, definitions)
