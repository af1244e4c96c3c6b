"""Everything a run needs to go on where it was: written whole, verified when read.

A checkpoint is one ``.npz`` file: every variable of the model, its optimizer and its metrics, and
a JSON state that says where the run stood. It is written beside, synced and renamed; the archive
keeps a checksum (CRC-32) of each array, which reading compares.
"""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import keras
import numpy as np
from numpy.typing import NDArray

from foveate.disk import replacing, require_space
from foveate.errors import RunError

_FORMAT = 1
_KEPT = 2
_GROUPS = ("model", "optimizer", "metrics")


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run.

    Attributes:
        path: The file it came from.
        state: JSON values: where the run stood.
        arrays: Values of the variables by group (``model``, ``optimizer``, ``metrics``).
        factor: Batches that one of then counts for, as batches have become smaller.
    """

    path: Path
    state: Mapping[str, Any]
    arrays: Mapping[str, Sequence[NDArray[Any]]]
    factor: int = 1

    def restore(self, model: keras.Model, group: str) -> None:
        """Set variables to what they were.

        Args:
            model: As it was; compiled, if it is about more than its own variables.
            group: ``model``, ``optimizer`` or ``metrics``.

        Raises:
            RunError: They are not the variables that were saved.
        """
        values, variables = list(self.arrays[group]), _variables(model, group)
        if len(values) < len(variables):  # a step was one batch, now it sums several
            for index, variable in enumerate(variables):
                if "gradient_accumulator" in variable.path:
                    values.insert(index, np.zeros(variable.shape, variable.dtype))
        found = [tuple(variable.shape) for variable in variables]
        if found != [value.shape for value in values]:
            raise RunError(
                f"{self.path} must fit the {group} of this run, but got {len(values)} other "
                f"arrays for its {len(found)} variables. It was written by another version of "
                "foveate or Keras; go on with that one, or start anew with --out."
            )
        for variable, value in zip(variables, values, strict=True):
            # Keras counts batches, and sums the gradients of those of an unfinished step.
            counts = variable.path.endswith("iteration") or "gradient_accumulator" in variable.path
            is_scaled = group == "optimizer" and counts
            variable.assign(value * self.factor if is_scaled else value)

    def in_batches_of(self, size: int) -> Checkpoint:
        """Say the same moment in smaller batches, of which a step has as many more.

        Args:
            size: Samples of a batch; the size that was is a multiple of it.

        Returns:
            A checkpoint to go on from with a loader and an optimizer for such batches.
        """
        factor = self.state["batch_size"] // size
        if factor == 1:
            return self
        rate = self.state["parts"]["rate"]
        parts = {**self.state["parts"], "rate": {**rate, "seen": rate["seen"] * factor}}
        position = self.state["position"] * factor
        state = {**self.state, "position": position, "batch_size": size, "parts": parts}
        return Checkpoint(self.path, state, self.arrays, self.factor * factor)


def save_checkpoint(
    folder: Path,
    position: int,
    state: Mapping[str, Any],
    model: keras.Model,
    trained: keras.Model | None = None,
) -> Path:
    """Write a checkpoint, then delete all but the last two.

    Args:
        folder: Where checkpoints are kept; it exists.
        position: Batches trained so far in the run: orders the files.
        state: JSON values.
        model: Its variables (weights, and the states of random layers) are stored.
        trained: The part of it that is compiled and trained, if not all of it: the variables of
            its optimizer and the metrics of the running epoch are stored.

    Returns:
        The file.

    Raises:
        RunError: The disk is full; older checkpoints are as they were.
    """
    trained = trained or model
    arrays = {
        f"{name}/{index:05d}": variable
        for name in _GROUPS
        for index, variable in enumerate(_variables(model if name == "model" else trained, name))
    }
    text = json.dumps({"format": _FORMAT, **state})
    arrays["state"] = np.frombuffer(text.encode(), np.uint8)
    path = folder / f"checkpoint-{position:012d}.npz"
    _write(path, arrays)
    for old in _files(folder)[_KEPT:]:
        old.unlink()
    return path


def save_weights(
    model: keras.Model, path: Path, held: Mapping[int, NDArray[Any]] | None = None
) -> None:
    """Write the weights of a model alone, so that the path never holds a torn file.

    Keras' own format takes ten times as long, which an epoch on stored features does not.

    Args:
        model: Whose weights; those of its optimizer are left out.
        path: A path that ends in ``.npz``; its folder exists.
        held: Values that take the place of what some weights are now, by `id` of the weight.

    Raises:
        RunError: The disk is full.
    """
    held = held or {}
    arrays = {
        f"{index:05d}": held.get(id(weight), weight) for index, weight in enumerate(model.weights)
    }
    _write(path, arrays)


def load_weights(model: keras.Model, path: Path) -> None:
    """Read what `save_weights` wrote, whatever the model is compiled with."""
    with np.load(path, allow_pickle=False) as archive:
        for name, weight in zip(sorted(archive.files), model.weights, strict=True):
            weight.assign(archive[name])


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; each torn or altered one gives a warning.

    Args:
        folder: Where checkpoints are kept.

    Returns:
        The checkpoint, or None if there is none.
    """
    for path in _files(folder):
        try:
            return _read(path)
        except Exception as error:  # a damaged archive raises nearly everything
            reason = str(error) or type(error).__name__
            warnings.warn(
                f"{path} is torn or altered ({reason}); using the checkpoint before it",
                stacklevel=2,
            )
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return bool(_files(folder))


def drop_checkpoints(folder: Path) -> None:
    """Delete all checkpoints, as a finished run needs none."""
    for path in _files(folder):
        path.unlink()


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Write variables and arrays as `numpy.savez` does, but copy one at a time into memory."""
    require_space(path.parent, sum(_array(value).nbytes + 512 for value in values.values()))
    try:
        with replacing(path) as beside, ZipFile(beside, "w") as archive:
            for name, value in values.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, _array(value), allow_pickle=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"A checkpoint must fit on the disk of {str(path.parent)!r}, but got: "
            f"{error.strerror}. Make room, then go on with --resume; the checkpoint before is "
            "intact."
        ) from None


def _array(value: Any) -> NDArray[Any]:
    array: NDArray[Any] = (
        value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value)
    )
    return array


def _files(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*.npz"), reverse=True)


def _read(path: Path) -> Checkpoint:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        state = json.loads(archive["state"].tobytes())
        arrays: dict[str, list[NDArray[Any]]] = {name: [] for name in _GROUPS}
        for name in sorted(archive.files):
            if name != "state":
                arrays[name.partition("/")[0]].append(archive[name])
    if state.pop("format") != _FORMAT:
        raise ValueError("it has another format")
    return Checkpoint(path, state, arrays)


def _variables(model: keras.Model, group: str) -> list[Any]:
    """List all that changes in training, each variable once, in an order that stays."""
    if group == "model":
        variables = model.variables
    elif group == "optimizer":
        variables = model.optimizer.variables
    else:
        variables = [variable for metric in model.metrics for variable in metric.variables]
    return list({id(variable): variable for variable in variables}.values())
