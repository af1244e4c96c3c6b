"""Read the tensors of a torch file without torch, and without running code from the file.

The format is the one `torch.save` wrote before version 1.6: three pickled headers, a pickled
dictionary whose tensors refer to storages by key, the pickled list of keys, then each storage
as its element count (int64) and its little-endian elements.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from foveate.errors import ConfigError

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor lies in its storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, elements: NDArray[Any]) -> NDArray[Any]:
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= elements.size:
            raise pickle.UnpicklingError("a tensor reaches outside its storage")
        byte_strides = [stride * elements.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(
            elements[self.offset :], self.shape, byte_strides, writeable=False
        )
        return np.ascontiguousarray(view)


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors of an old-format torch file.

    Args:
        path: A file that holds a state dictionary.

    Returns:
        The arrays by name, C-contiguous whatever their strides in the file.

    Raises:
        ConfigError: The file is of another format, damaged, or asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} must be a torch file in the format before torch 1.6 (a state dictionary "
            f"saved with _use_new_zipfile_serialization=False), but got {error}. Save it so, or "
            "as Keras weights."
        ) from error


def _read(file: BinaryIO) -> dict[str, NDArray[Any]]:
    if _RestrictedReader(file).load() != _MAGIC:
        raise pickle.UnpicklingError("a file that starts otherwise")
    for _ in ("protocol", "system"):
        _RestrictedReader(file).load()
    tensors: dict[str, _Tensor] = _RestrictedReader(file).load()
    is_dict = isinstance(tensors, dict)
    if not is_dict or not all(isinstance(value, _Tensor) for value in tensors.values()):
        raise pickle.UnpicklingError("something other than a dictionary of tensors")
    keys: list[str] = _RestrictedReader(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {key: _read_storage(file, np.dtype(dtypes[key])) for key in keys}
    return {name: tensor.array(storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    count = int.from_bytes(file.read(8), "little", signed=True)
    data = file.read(count * dtype.itemsize) if count >= 0 else b""
    if len(data) != count * dtype.itemsize:
        raise EOFError("a file that ends early")
    return np.frombuffer(data, dtype)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _RestrictedReader(pickle.Unpickler):
    """An unpickler that knows tensors and dictionaries and refuses everything else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"a reference to {module}.{name}, which is not allowed")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(key, dtype)
