"""Foveate: say what you have, get the best Keras image model that fits.

Public names are loaded on first use, so importing foveate is quick and does not import Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.config.files import load_config
    from foveate.config.settings import RunConfig
    from foveate.data.loader import BatchLoader
    from foveate.data.manifest import Manifest
    from foveate.evaluation.predict import predict
    from foveate.evaluation.scores import evaluate
    from foveate.models.build import build_model
    from foveate.runs import Run
    from foveate.training.recipe import train

__version__ = "0.1.0"
__all__ = [
    "BatchLoader",
    "Manifest",
    "Run",
    "RunConfig",
    "build_model",
    "evaluate",
    "load_config",
    "predict",
    "train",
]

_HOMES = {
    "Manifest": "foveate.data.manifest",
    "Run": "foveate.runs",
    "RunConfig": "foveate.config.settings",
    "load_config": "foveate.config.files",
}
_HOMES_ON_KERAS = {
    "BatchLoader": "foveate.data.loader",
    "build_model": "foveate.models.build",
    "evaluate": "foveate.evaluation.scores",
    "predict": "foveate.evaluation.predict",
    "train": "foveate.training.recipe",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES_ON_KERAS:
        from foveate.scale import runtime

        runtime.prepare()
        return getattr(importlib.import_module(_HOMES_ON_KERAS[name]), name)
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'foveate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
