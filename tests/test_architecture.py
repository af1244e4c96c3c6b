"""The walls of the house: a room imports only rooms above it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "foveate"
ROOMS = (
    "errors",
    "disk",
    "machine",
    "config",
    "data",
    "tasks",
    "models",
    "scale",
    "runs",
    "planning",
    "training",
    "evaluation",
    "report",
    "export",
    "search",
    "quickstart",
)
ABOVE_ALL = ("cli", "cli_data", "cli_run", "cli_search", "__init__", "__main__")
NARROWER = {
    "data": {"errors", "disk", "machine", "config", "data"},
    "models": {"errors", "disk", "config", "models", "tasks.base"},
    "runs": {"errors", "disk", "config", "runs"},
    "report": {"errors", "disk", "config", "runs", "report"},
}
WITHOUT_KERAS = (
    "foveate",
    "foveate.cli",
    "foveate.errors",
    "foveate.planning.planner",
    "foveate.search.search",
    "foveate.search.keras_tuner",
    "foveate.config.files",
    "foveate.runs",
    "foveate.report.report",
    "foveate.search.report",
    "foveate.search.rate_page",
    "foveate.data.manifest",
    "foveate.data.splits",
)
MODULES = sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foveate"):
            base = (node.module or "").removeprefix("foveate").lstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".lstrip(".")
                inside = SOURCE.joinpath(*whole.split("."))
                is_module = inside.with_suffix(".py").exists() or inside.is_dir()
                yield whole if is_module else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("foveate"):
                    yield alias.name.removeprefix("foveate").lstrip(".")


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_room_imports_only_rooms_above(path: Path) -> None:
    room = dotted(path).split(".")[0]
    if room in ABOVE_ALL:
        return
    assert room in ROOMS, f"{room} is not a room of the house"
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for module in imported(path):
        if not module:  # the package itself, for its version
            continue
        assert module.split(".")[0] in allowed, f"{dotted(path)} must not see {module}"
        if room in NARROWER:
            ways = NARROWER[room]
            seen = module in ways or module.split(".")[0] in ways
            assert seen, f"{dotted(path)} must not see {module}"


def test_entries_import_inside_functions() -> None:
    light = {"foveate.errors", "foveate.cli_data", "foveate.cli_run", "foveate.cli_search"}
    for name in ABOVE_ALL:
        tree = ast.parse((SOURCE / f"{name}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foveate."):
                assert node.module in light, f"{name} imports {node.module} at its top"


def test_no_import_cycles() -> None:
    edges = {dotted(path): set(imported(path)) for path in MODULES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module in done:
            return
        for following in edges.get(module, ()):
            visit(following, (*trail, module))
        done.add(module)

    for module in edges:
        if module not in ABOVE_ALL:
            visit(module, ())


def test_no_rooms_for_leftovers() -> None:
    assert not [path for path in MODULES if path.stem in ("utils", "common", "helpers", "misc")]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_asserts_in_the_package(path: Path) -> None:
    assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]


@pytest.mark.parametrize("module", WITHOUT_KERAS)
def test_imports_without_keras(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch', 'grain') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_keras() -> None:
    code = (
        "import sys, foveate.cli; foveate.cli.run(['--help']); "
        "print([m for m in ('keras', 'tensorflow', 'polars', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
