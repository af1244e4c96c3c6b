"""A door for those who search with Keras Tuner: the trials of a search as a HyperModel."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from foveate.config.settings import RunConfig
from foveate.errors import ConfigError, MissingDependencyError
from foveate.scale import runtime
from foveate.search.look import facts_of
from foveate.search.space import Space
from foveate.search.usual import usual_space

if TYPE_CHECKING:
    from foveate.search.hypermodel import RunHyperModel

_VIEWS, _SIZES = "recipe.frozen_views", "recipe.image_sizes"


def hypermodel(config: RunConfig, data: Any) -> RunHyperModel:
    """Make a `keras_tuner.HyperModel` of the runs that `foveate search` would try.

    `keras_tuner.RandomSearch`, `BayesianOptimization`, `Hyperband` and `GridSearch` take it as it
    is, and their ``search()`` needs no data: a trial streams its training and validation samples
    from disk. All trials have the same splits; none of them sees the test split.

    What is searched by Keras Tuner is trained in this process: held to no budget of memory or
    time, without checkpoints of ours, one trial at a time.

    Args:
        config: The settings to beat, and in `search.space` what to vary; what usually matters if
            that is empty. The tuner decides all else that the group `search` speaks of.
        data: A folder, a CSV or Parquet file, a dataframe, or a Manifest.

    Returns:
        What the tuner takes; its attribute `objective` is what to make best.

    Raises:
        ConfigError: Settings contradict each other or the data, or ask for what a HyperModel
            cannot do.
        ManifestError: The data does not describe a usable dataset.
        MissingDependencyError: Keras Tuner, or what it needs, is not installed.
    """
    _require_packages(runtime.prepare(config.runtime.backend))
    _require_possible(config)
    Space(config)  # what is misspelt is better told now
    from foveate.search.hypermodel import RunHyperModel
    from foveate.training.prepare import prepare

    prepared = prepare(data, config)
    facts = facts_of(prepared, config)
    if not facts.num_validation:
        raise ConfigError(
            "A search chooses by the validation split, but got none. Set data.splits.validation."
        )
    space = Space(config, config.search.space or usual_space(config, facts))
    return RunHyperModel(space, prepared.manifest, f"val_{facts.told[0]}")


def _require_packages(backend: str) -> None:
    needed = {"keras_tuner": "Keras Tuner"}
    if backend == "tensorflow":  # of whose dependencies it was one, as Keras Tuner still believes
        needed["tensorboard"] = "TensorBoard"
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f'A HyperModel needs {" and ".join(missing)}. Run: pip install "foveate[keras-tuner]"'
        )


def _require_possible(config: RunConfig) -> None:
    """Refuse what would silently be left out."""
    stated = [f"budget.{name}" for name, value in config.budget if value is not None]
    if config.recipe.frozen_views:
        stated.append(_VIEWS)
    if (config.recipe.image_sizes or 1) > 1:
        stated.append(_SIZES)
    stated += [f"search.space.{key}" for key in (_VIEWS, _SIZES) if key in config.search.space]
    if stated:
        raise ConfigError(
            "A HyperModel has no budget, no stored features and one image size, but got "
            f"{', '.join(stated)}. Leave that out, or use foveate search, which does all of it."
        )
