"""A model and all that it needs to take a raw file, saved and loaded together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from foveate.disk import replacing, write_atomically
from foveate.errors import ConfigError, RunError, first_cause

# Names the layers of ours that a saved model may hold.
from foveate.models import build as build
from foveate.models.backbones import get_backbone

MODEL_FILE = "model.keras"
DESCRIPTION_FILE = "bundle.json"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A trained model with its description.

    Attributes:
        model: Takes raw uint8 pixels and raw metadata, gives float32 logits.
        description: JSON values: ``task``, ``image_size``, ``metadata``, ``decode``, ``tiles``,
            ``backbone``, and ``manifest``, the digest of the data it was trained on.
    """

    model: keras.Model
    description: Mapping[str, Any]


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle; the description comes last, so its presence means that all is there.

    Args:
        folder: Made if need be; an older bundle in it is replaced.
        bundle: What to save. The model is saved without its loss and optimizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION_FILE).unlink(missing_ok=True)
    # A fresh model over the same layers carries no compile state.
    uncompiled = keras.Model(bundle.model.input, bundle.model.output, name=bundle.model.name)
    with replacing(folder / MODEL_FILE) as beside:
        uncompiled.save(beside)
    description = {"format": FORMAT, **bundle.description}
    write_atomically(folder / DESCRIPTION_FILE, json.dumps(description, indent=2) + "\n")


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle.

    Args:
        folder: What `save_bundle` wrote.

    Returns:
        The bundle.

    Raises:
        RunError: There is no whole bundle, it is of a newer format, or Keras cannot load it.
    """
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
    except FileNotFoundError:
        raise RunError(
            f"A trained model must be in {str(folder)!r}, but there is none. "
            "Its training has not ended: foveate train --resume RUN goes on with it."
        ) from None
    if description.pop("format", None) != FORMAT:
        raise RunError(f"The model in {str(folder)!r} was written by another version of foveate.")
    return Bundle(_load_model(folder / MODEL_FILE, description.get("backbone", "")), description)


def _load_model(path: Path, backbone: str) -> keras.Model:
    advice = "Restore the file, or train anew."
    if ":" in backbone:
        advice = (
            "Layers of one's own must be registered with Keras, and the module of the backbone "
            f"({backbone!r}) on PYTHONPATH."
        )
        with contextlib.suppress(ConfigError):  # it may do without
            get_backbone(backbone)  # whose module registers layers of its own
    try:
        return keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{str(path)!r} must be a model that Keras can load, but got: {first_cause(error)} "
            f"{advice}"
        ) from error
