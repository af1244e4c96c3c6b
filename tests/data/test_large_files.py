"""Large files are copied from Pillow in bands; nothing else about them changes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.config.settings import DecodeConfig
from foveate.data import decode
from foveate.data.decode import decode_image, decode_mask


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_bands_make_the_whole_image(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2, (37, 23), dtype=np.uint8)
    image = Image.fromarray(pixels * 255).convert(mode)
    image.save(tmp_path / "image.png")
    read = decode_image if mode == "RGB" else decode_mask
    at_once = read(tmp_path / "image.png", DecodeConfig())
    monkeypatch.setattr(decode, "_BAND", 100)
    in_bands = read(tmp_path / "image.png", DecodeConfig())
    np.testing.assert_array_equal(in_bands, at_once)
    assert in_bands.dtype == np.uint8
    assert len(np.unique(in_bands)) == 2
