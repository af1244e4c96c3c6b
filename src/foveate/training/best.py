"""The best epoch of a run: which one it is, and its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from foveate.config.recipe import StoppingConfig
from foveate.errors import RunError
from foveate.training.checkpoint import save_weights


def better(value: float, than: float, monitor: str) -> bool:
    """Say whether a monitored value improves on another; losses fall, all else rises."""
    return value < than if monitor.endswith("loss") else value > than


def monitored(logs: Mapping[str, Any], monitor: str) -> float:
    """Look up the monitored value of an epoch.

    Raises:
        RunError: It or the training loss is not a finite number.
    """
    for name in ("loss", monitor):
        if not math.isfinite(float(logs[name])):
            raise RunError(
                f"Training must keep the loss finite, but got {name} = {float(logs[name])}. "
                "Lower recipe.learning_rate, or set recipe.optimizer.clip_norm to 1."
            )
    return float(logs[monitor])


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the best epoch of all stages, and stops a stage that stands still.

    Where a small part of the model is fitted, its weights wait in memory until a checkpoint says
    that they are the best: to write the whole model takes longer than an epoch on stored features.

    Args:
        config: What to watch and how patiently.
        path: Where the best weights go.

    Attributes:
        value: The best value so far.
    """

    def __init__(self, config: StoppingConfig, path: Path) -> None:
        super().__init__()
        self._config, self._path = config, path
        self.value: float | None = None
        self._waited = 0
        self._held: dict[int, NDArray[Any]] = {}

    def watch(self, model: keras.Model, compares: bool) -> None:
        """Say what is trained.

        Args:
            model: Whose weights are kept; what is fitted may be a part of it.
            compares: Whether its scores compare with those of other stages. On smaller or easier
                images they do not; the last weights of these are kept where there is nothing
                better.
        """
        self._kept, self._compares = model, compares

    def start_stage(self) -> None:
        """Be patient anew; the best value so far stays."""
        self._waited = 0

    def get_state(self) -> dict[str, Any]:
        """Give the best value and the patience so far, as JSON values; its weights are written."""
        self.write()
        return {"value": self.value, "waited": self._waited}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        self.value, self._waited = state["value"], state["waited"]

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keep better weights; stop when patience is at its end."""
        value = monitored(logs or {}, self._config.monitor)
        if not self._compares:
            if self.value is None:
                self._keep()
            return
        if self.value is None or better(value, self.value, self._config.monitor):
            self._keep()
            self.value, self._waited = value, 0
            return
        self._waited += 1
        if self._config.patience and self._waited >= self._config.patience:
            self.model.stop_training = True

    def write(self) -> None:
        """Write the weights of the best epoch, if they wait."""
        if self._held:
            save_weights(self._kept, self._path, self._held)
            self._held = {}

    def _keep(self) -> None:
        if self.model is self._kept:
            save_weights(self._kept, self._path)
            return
        fitted = self.model.weights
        self._held = {id(one): np.array(keras.ops.convert_to_numpy(one)) for one in fitted}
