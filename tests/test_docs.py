"""The code in README and in the guides runs as it stands, beside small real data."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from foveate.cli import app
from foveate.config.files import setting_fields

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *GUIDES]


def script_of(document: Path) -> str:
    """All Python blocks as one script, each line at its number in the document."""
    lines, inside = [], False
    for line in document.read_text(encoding="utf-8").splitlines():
        ends = line == "```"
        lines.append(line if inside and not ends else "")
        inside = line == "```python" or (inside and not ends)
    return "\n".join(lines)


@pytest.fixture
def desk(digit_folders: Path, digit_table: Path, mask_folders: Path, tmp_path: Path) -> Path:
    """The files that the documents speak of."""
    (tmp_path / "photos").symlink_to(digit_folders)
    (tmp_path / "scenes").symlink_to(mask_folders)
    Image.open(next(digit_folders.rglob("*.png"))).save(tmp_path / "new.jpg")
    pl.read_csv(digit_table).select(
        path="photos/" + pl.col("image"),
        diagnosis=pl.col("label"),
        age=pl.col("ink"),
        sex=pl.col("shade"),
        patient_id=pl.col("writer"),
    ).write_csv(tmp_path / "patients.csv")
    (tmp_path / "search.toml").write_text(
        'data.image_size = 16\nmodel.backbone = "simple_cnn"\nrecipe.epochs = 1\n'
        "search.trials = 1\n"
    )
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_code_runs(document: Path, desk: Path) -> None:
    script = script_of(document)
    assert script.strip()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=desk, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{document.name}: {done.stderr[-3000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_flags_and_commands_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    flags = set(re.findall(r"--(?:search\.space\.)?([a-z]+\.[a-z_.]+)", text))
    known = {key for key, _ in setting_fields()}
    assert flags <= known | {key.rpartition(".")[0] for key in known}
    commands = set(re.findall(r"^foveate ([a-z]+)", text, flags=re.MULTILINE))
    assert commands <= set(app)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_readme_leads_to_every_guide() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [guide.name for guide in GUIDES if f"(docs/{guide.name})" not in text] == []


def test_readme_shows_what_matters() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^foveate ([a-z]+)", text, flags=re.MULTILINE))
    assert {"train", "predict", "doctor"} <= shown
    targets = set(re.findall(r"^make ([a-z]+)", text, flags=re.MULTILINE))
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets == {"quickstart", "test", "check", "bench"}
    assert targets <= rules


def test_readme_names_what_can_be_installed_as_well() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = extras["project"]["optional-dependencies"]
    assert [extra for extra in extras if extra != "dev" and extra not in text] == []
