"""A profile of real data names what limits it; advice says so with the profile's numbers."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from rich.console import Console

from foveate.data import parts
from foveate.data import profile as loading
from foveate.data.profile import LoadTimes
from foveate.models.build import build_model
from foveate.training import profile as profiling
from foveate.training.advice import advise, show
from foveate.training.profile import Packing, Profile

TIMES = LoadTimes(
    num_images=100, file_bytes=50 * 1024, first_read=0.1, read=0.1, decode=1.0, warp=0.5,
    colour=0.2, collate=0.2,
)  # fmt: skip
PROFILE = Profile(
    times=TIMES, threads=2, loading={1: 400.0, 2: 800.0}, decoding=1500.0, reading=20_000.0,
    models={"frozen": 1600.0, "fine_tune": 100.0}, wait_share=0.5,
    packing=Packing(256, 2048, 0.7 / 1.7),
)  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, loading, profiling):
        monkeypatch.setattr(module, "_SECONDS", 0.1)


def told(profile: Profile) -> str:
    return " ".join(advise(profile, "photos"))


def test_large_photographs_and_a_small_model(
    short: None, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            jpeg = simplejpeg.encode_jpeg(noise, quality=95)
            (tmp_path / name / f"{number}.jpg").write_bytes(jpeg)
    found = profiling.profile(tmp_path, tiny_config(data__batch_size=4))
    assert found.bottleneck == "decode"
    assert found.packing is not None
    assert found.packed_speed is not None
    assert found.packed_speed > 2 * found.speed
    text = " ".join(advise(found, "photos"))
    assert "Loading is the bottleneck" in text
    assert f"foveate pack photos OUT --side {found.packing.side}" in text
    assert set(found.loading) >= {1, found.threads}
    assert min(*found.loading.values(), found.decoding, found.reading) > 0
    assert found.wait_share is not None
    assert 0 < found.wait_share <= 1


def test_tiny_images_and_a_model_that_sees_them_large(
    short: None, digit_folders: Path, tiny_config: Callable[..., Any]
) -> None:
    found = profiling.profile(digit_folders, tiny_config(data__image_size=96))
    assert found.bottleneck == "model"
    assert list(found.models) == ["scratch"]
    assert "The model is the bottleneck" in advise(found, "photos")[0]
    assert found.packing is None


def test_the_model_is_as_precise_as_that_of_the_run(
    short: None, digit_folders: Path, tiny_config: Callable[..., Any], monkeypatch: Any
) -> None:
    built = []

    def build(*about: Any) -> Any:
        built.append(build_model(*about))
        return built[0]

    monkeypatch.setattr("foveate.training.profile.build_model", build)
    profiling.profile(digit_folders, tiny_config(recipe__precision="mixed_bfloat16"))
    assert {layer.dtype_policy.name for layer in built[0].layers} >= {"mixed_bfloat16"}


def test_without_the_model(
    short: None, digit_folders: Path, tiny_config: Callable[..., Any]
) -> None:
    found = profiling.profile(digit_folders, tiny_config(), with_model=False)
    assert found.models == {}
    assert found.wait_share is None
    assert "model was not measured" in advise(found, "photos")[0]


def test_a_model_that_never_waits_is_the_bottleneck() -> None:
    """Loader and model share the processors, so their speeds alone do not tell."""
    busy = replace(PROFILE, wait_share=0.01)
    assert busy.bottleneck == "model"
    assert "The model is the bottleneck" in told(busy)
    assert replace(PROFILE, wait_share=None, models={}).bottleneck == "decode"


def test_the_slowest_names_the_bottleneck() -> None:
    assert PROFILE.bottleneck == "decode"
    assert "decode" in told(PROFILE)
    assert "800" in told(PROFILE)
    assert "1,600" in told(PROFILE)
    slow = replace(PROFILE, models={"frozen": 700.0})
    assert slow.bottleneck == "model"
    assert "could not use it" in told(slow)
    disk = replace(PROFILE, times=replace(TIMES, read=5.0, first_read=5.0))
    assert disk.bottleneck == "disk"
    assert "50 KiB each" in told(disk)


def test_packing_saves_its_share_of_the_time() -> None:
    assert PROFILE.packed_speed == pytest.approx(800 * 2)  # 1 of 2 milliseconds
    assert "foveate pack photos OUT --side 256" in told(PROFILE)
    assert "1,600 images/s instead of 800" in told(PROFILE)
    little = replace(PROFILE, packing=Packing(256, 2048, 1.6 / 1.7))
    assert "would change little" in told(little)
    none = replace(PROFILE, packing=None)
    assert none.packed_speed is None
    assert "saves nothing" in told(none)


def test_threads() -> None:
    assert "no more than 2 threads" in told(PROFILE)
    more = replace(PROFILE, loading={1: 400.0, 2: 800.0, 4: 1500.0, 8: 1550.0})
    assert "Set loader.threads to 4: 1,500 images/s instead of 800 with 2" in told(more)


def test_whether_the_disk_was_seen() -> None:
    assert "says nothing about the disk" in told(PROFILE)
    cold = replace(PROFILE, times=replace(TIMES, first_read=2.1))
    assert "2.10 ms an image, again 0.10" in told(cold)
    assert "50%" in told(cold)  # 2 milliseconds in memory, 4 from the disk


def test_tables_show_what_was_measured() -> None:
    console = Console(record=True, width=160, file=io.StringIO())
    show(PROFILE, console, "photos")
    text = console.export_text()
    for shown in ("decode", "50%", "1.000", "loader, 1 thread ", "fine_tune", "20,000"):
        assert shown in text
