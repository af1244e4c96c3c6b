"""Which Keras backend computes, and how it is set up before Keras is imported.

With no accelerator TensorFlow without XLA is the fastest of the three for training image models,
so it comes first.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from foveate import machine
from foveate.errors import ConfigError, MissingDependencyError

BACKENDS = ("tensorflow", "jax", "torch")
_UNUSED = ("jax", "matplotlib", "pandas", "scipy", "sklearn")
"""What Keras and TensorFlow import where it is installed, for things that no run does: 260 MiB,
and half of the time that the import takes."""
_USED = {"jax": ("jax", "scipy")}
"""What of it a backend needs."""
_OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
"""What TensorFlow and torch raise for lack of an accelerator's memory."""
_XLA_ERRORS = ("JaxRuntimeError", "XlaRuntimeError")
"""What JAX raises for that, and for all else that goes wrong there, now and in former versions."""
_is_ours = False


def installed_backends() -> tuple[str, ...]:
    """List the Keras backends that can be imported, the preferred one first."""
    return tuple(name for name in BACKENDS if importlib.util.find_spec(name) is not None)


def running_backend() -> str | None:
    """Name the backend that Keras runs on in this process; None before it is imported."""
    loaded = sys.modules.get("keras")
    return str(loaded.backend.backend()) if loaded is not None else None


def choose_backend(wanted: str = "auto") -> str:
    """Settle the backend without importing it.

    Args:
        wanted: A backend, or ``auto``: what KERAS_BACKEND says, else the first installed.

    Returns:
        A backend that is installed.

    Raises:
        ConfigError: The name is unknown, or Keras runs on another backend already.
        MissingDependencyError: It is not installed, or none is.
    """
    running = running_backend()
    if wanted == "fastest":
        raise ConfigError(
            "runtime.backend fastest is what `foveate plan` and `foveate train` measure; here it "
            f"must be one of {list(BACKENDS)}. `foveate plan` says which is the fastest."
        )
    if wanted == "auto":
        wanted = running or os.environ.get("KERAS_BACKEND") or next(iter(installed_backends()), "")
    if not wanted:
        raise MissingDependencyError(
            'Keras needs a backend, but none is installed. Run: pip install "foveate[tensorflow]"'
        )
    if wanted not in BACKENDS:
        raise ConfigError(f"The backend must be one of {list(BACKENDS)}, but got {wanted!r}.")
    if wanted not in installed_backends():
        raise MissingDependencyError(
            f'The backend {wanted!r} is not installed. Run: pip install "foveate[{wanted}]"'
        )
    if running is not None and running != wanted:
        raise ConfigError(
            f"Keras runs on {running!r} in this process already, but got backend {wanted!r}. "
            "Set runtime.backend or KERAS_BACKEND before Keras is imported."
        )
    return wanted


def own_process() -> None:
    """Say that this process is the command's, so that Keras need not serve anybody else in it.

    It is then imported without packages that it would import to support its wrappers and
    utilities, jax among them unless it is the backend. They can still be imported afterwards.
    """
    global _is_ours
    _is_ours = True


def load(wanted: str = "auto") -> str:
    """Import the backend and Keras, without asking for a device: the process may be forked.

    Args:
        wanted: As for `choose_backend`.

    Returns:
        The backend in use.
    """
    backend = choose_backend(wanted)
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Else JAX takes three quarters of an accelerator's memory at once, whatever the budget says.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    unused = set(_UNUSED).difference(_USED.get(backend, ())) if _is_ours else ()
    is_first = running_backend() is None
    with _native_messages_muted(), _hidden(unused), _not_collecting():
        import keras  # noqa: F401
    if _is_ours and is_first:
        gc.freeze()  # what was imported stays; to look through it takes half of each collection
    return backend


@contextlib.contextmanager
def _hidden(packages: Iterable[str]) -> Iterator[None]:
    """Have packages that are not imported yet look as if they were not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # as Python's import system defines it
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def _not_collecting() -> Iterator[None]:
    """Look for no garbage: an import leaves hardly any, and looking for it took a fifth of it."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def prepare(wanted: str = "auto") -> str:
    """Make the backend ready; call it before anything imports Keras.

    Args:
        wanted: As for `choose_backend`.

    Returns:
        The backend in use.
    """
    backend = load(wanted)
    if backend == "tensorflow":
        with _native_messages_muted():
            import tensorflow as tf

            devices = tf.config.list_physical_devices("GPU")
        tf.get_logger().setLevel("ERROR")
        for device in devices:
            # Without it TensorFlow takes all memory of the device at once. It refuses where the
            # user's own code has computed on the device before.
            if not tf.config.experimental.get_memory_growth(device):
                with contextlib.suppress(RuntimeError):
                    tf.config.experimental.set_memory_growth(device, True)
    return backend


@contextlib.contextmanager
def _native_messages_muted() -> Iterator[None]:
    """Hide what TensorFlow's native code prints while it loads; no setting of its own does."""
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def devices() -> list[str]:
    """Name the devices that the backend computes on, such as ``["cpu"]`` or ``["gpu:0"]``."""
    import keras

    match keras.backend.backend():
        case "torch":
            import torch

            found = [f"gpu:{index}" for index in range(torch.cuda.device_count())]
            if torch.backends.mps.is_available():
                found.append("gpu:mps")
        case _:
            found = [name for name in keras.distribution.list_devices() if "cpu" not in name]
    return found or ["cpu"]


def jit_compile() -> bool | Literal["auto"]:
    """Say how to compile Keras models: XLA slows TensorFlow on the CPU several times."""
    import keras

    slow = keras.backend.backend() == "tensorflow" and devices() == ["cpu"]
    return False if slow else "auto"


def has_bfloat16() -> bool:
    """Say whether what computes has instructions for bfloat16, so that it may be worth a try."""
    return devices() != ["cpu"] or machine.has_bfloat16()


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Build layers under a precision policy; they keep it, the process does not.

    Args:
        name: As the setting `recipe.precision`; nothing is measured here for ``auto``.
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if name == "auto" else name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def lacks_device_memory(error: BaseException) -> bool:
    """Say whether a backend raised an error since the memory of an accelerator did not suffice."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not kinds.isdisjoint(_XLA_ERRORS):
        return "RESOURCE_EXHAUSTED" in str(error)
    return not kinds.isdisjoint(_OUT_OF_MEMORY)


def peak_device_bytes() -> int | None:
    """Tell the most memory of an accelerator that was in use at once; None without one."""
    import keras

    if devices() == ["cpu"]:
        return None
    match keras.backend.backend():
        case "torch":
            import torch

            return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
        case "jax":
            import jax

            found = [device.memory_stats() or {} for device in jax.local_devices()]
            return max(int(stats.get("peak_bytes_in_use", 0)) for stats in found)
        case _:
            import tensorflow as tf

            names = [
                f"GPU:{index}" for index in range(len(tf.config.list_physical_devices("GPU")))
            ]
            return max(int(tf.config.experimental.get_memory_info(name)["peak"]) for name in names)
