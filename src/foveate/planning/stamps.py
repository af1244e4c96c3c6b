"""Signs by which it can be told that something has changed, without importing or reading it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np

from foveate.data.manifest import Manifest
from foveate.data.places import Member

_SIZES_ASKED = 1000


def accelerators() -> list[str]:
    """What decides on which devices a backend computes, as far as it can be told without one."""
    packages = importlib.metadata.distributions()
    found = sorted(
        f"{package.name} {package.version}"
        for package in packages
        if (package.name or "").lower().startswith(("nvidia-", "jax-cuda", "jax-rocm"))
    )
    with contextlib.suppress(OSError):
        found += sorted(path.name for path in Path("/proc/driver/nvidia/gpus").iterdir())
    return found + [
        str(os.environ.get(name)) for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
    ]


def file_sizes(manifest: Manifest) -> list[int]:
    """Tell the bytes of some files of this machine: others may have the same names.

    Args:
        manifest: The data; images and masks of at most 1,000 rows, spread evenly, are looked at.
    """
    count = min(_SIZES_ASKED, manifest.num_samples)
    rows = np.linspace(0, manifest.num_samples - 1, count).astype(np.int64)
    sizes, places = [], list(manifest.image_places(rows))
    if manifest.has_masks:
        places += manifest.mask_places(rows)
    for place in places:
        with contextlib.suppress(OSError):  # far away, or gone; the loader says so
            path = Path(place.shard if isinstance(place, Member) else place)
            sizes.append(path.stat().st_size)
    return sizes


def module_stamp(backbone: str) -> list[int]:
    """Tell size and time of change of the file that makes a user's backbone, without importing it.

    Args:
        backbone: `model.backbone`.

    Returns:
        Bytes and nanoseconds; empty for a backbone of Foveate's own, or one that is not found.
    """
    module, _, function = backbone.partition(":")
    top, *inner = module.split(".")
    with contextlib.suppress(ImportError, ValueError, OSError):  # the trial says what is wrong
        spec = importlib.util.find_spec(top) if function else None
        for name in inner:  # find_spec("a.b") would import a
            spec = (
                PathFinder.find_spec(name, spec.submodule_search_locations or []) if spec else None
            )
        if spec is not None and spec.origin is not None:
            found = Path(spec.origin).stat()
            return [found.st_size, found.st_mtime_ns]
    return []
