"""All kinds of models, and how a saved one is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from .blend import BlendModel
from .interactions import ModelFileError
from .related import RelatedItemsModel
from .segmentation import SegmentationModel
from .serving import UserModel
from .store import LOAD_ERRORS, load_arrays

_SavedModel = BlendModel | RelatedItemsModel | SegmentationModel
MODELS: dict[str, type[_SavedModel]] = {model.kind: model for model in get_args(_SavedModel)}
AnyModel = UserModel | RelatedItemsModel | SegmentationModel


def load_model(folder: Path) -> AnyModel:
    """Load a saved model. Raises ModelFileError when a file is missing or damaged."""
    kind, arrays, facts = load_arrays(folder)
    if not isinstance(kind, str) or kind not in MODELS:
        raise ModelFileError(f"the model in {folder} has the unknown kind {kind!r}")
    try:
        return MODELS[kind].load(arrays, facts)
    except KeyError as error:
        raise ModelFileError(f"the model in {folder} is incomplete: {error}") from error
    except LOAD_ERRORS as error:
        raise ModelFileError(f"the model in {folder} is damaged: {error}") from error
