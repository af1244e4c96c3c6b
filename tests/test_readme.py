"""What README shows works as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from foveate.cli import app
from foveate.config.files import setting_fields

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code(code: str, digit_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(digit_folders)
    Image.open(next(digit_folders.rglob("*.png"))).save(tmp_path / "new.jpg")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_flags_exist() -> None:
    shown = set(re.findall(r"--([a-z]+\.[a-z_.]+)", TEXT))
    assert shown <= {key for key, _ in setting_fields()}
    assert shown


def test_commands_exist() -> None:
    shown = set(re.findall(r"^foveate ([a-z]+)", TEXT, flags=re.MULTILINE))
    assert shown <= set(app)
    assert {"train", "predict", "doctor"} <= shown


def test_make_targets_exist() -> None:
    shown = set(re.findall(r"^make ([a-z]+)", TEXT, flags=re.MULTILINE))
    rules = set(re.findall(r"^([a-z]+):", README.with_name("Makefile").read_text(), re.MULTILINE))
    assert shown == {"quickstart", "test", "check", "bench"}
    assert shown <= rules
