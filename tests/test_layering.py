"""Floors: imports go down only, and neighbours leave each other alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. What stands in one line may not import its neighbours.
FLOORS: list[set[str]] = [
    {"offload.exceptions", "offload.origins", "offload.at_fork"},
    {"offload.interfaces", "offload.settings", "offload.observe"},
    {"offload.protocol"},
    {"offload.transport", "offload.layers"},
    {"offload.http", "offload.hub", "offload.consumers"},
    {"offload.websocket"},
    {"offload.server", "offload.testing"},
    {"django_offload"},
    {"offload.cli", "offload.integrations"},
    {"offload.__main__"},
]
# The package's own names are those of its consumers floor; whoever writes `from offload import` means that one.
ALIASES = {"offload": "offload.consumers"}

MODULES = sorted(
    path for package in ("offload", "django_offload") for path in (ROOT / package).rglob("*.py")
)  # fmt: skip


def place_of(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "django_offload":
        return "django_offload"
    if len(parts) == 1:
        return ALIASES[module]
    place = ".".join(parts[:2])
    return place if any(place in floor for floor in FLOORS) else ALIASES["offload"]


def floor_of(place: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if place in floor)


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "offload":
                submodules = {f"offload.{alias.name}" for alias in node.names}
                names.update(name if place_of(name) == name else "offload" for name in submodules)
            elif node.module:
                names.add(node.module)
    return names


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_a_module_imports_only_from_floors_below_or_its_own_place(path: Path) -> None:
    place = place_of(module_of(path))
    for name in imports_of(path):
        if name.split(".")[0] not in ("offload", "django_offload"):
            continue
        target = place_of(name)
        assert target == place or floor_of(target) < floor_of(place), f"{module_of(path)} imports {name}"


def modules_imported_by(path: Path) -> set[str]:
    """The modules themselves, also those that are imported for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & PATHS.keys()
            found |= inner or {node.module}
    return (found & PATHS.keys()) - {module_of(path)}


BENCHMARKS = [
    path for folder in ("harness", "targets", "apps") for path in (ROOT / "benchmarks" / folder).rglob("*.py")
]
PATHS = {module_of(path): path for path in (*MODULES, *BENCHMARKS)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {module: modules_imported_by(path) for module, path in PATHS.items()}
    # Those that import nothing that is left are in no circle; what remains in the end is.
    while free := [module for module, names in imports.items() if not names & imports.keys()]:
        for module in free:
            del imports[module]
    assert not imports, f"in a circle, or above one: {', '.join(sorted(imports))}"


@pytest.mark.parametrize(
    ("place", "forbidden"),
    [
        ("offload.protocol", {"gevent", "socket", "_socket", "time", "select", "threading", "django"}),
        ("offload.layers", {"gevent", "greenlet", "django"}),
        ("offload.consumers", {"gevent", "greenlet", "django"}),
        ("offload.transport", {"django"}),
        ("offload.hub", {"django"}),
        ("offload.http", {"django"}),
        ("offload.websocket", {"django"}),
        ("offload.server", {"django"}),
    ],
)
def test_a_floor_does_not_know(place: str, forbidden: set[str]) -> None:
    paths = [path for path in MODULES if place_of(module_of(path)) == place]
    assert paths
    for path in paths:
        known = {name.split(".")[0] for name in imports_of(path)} & forbidden
        assert not known, f"{module_of(path)} imports {', '.join(known)}"


_NOT_AT_THE_START = (
    "gevent", "django", "redis", "ssl", "asyncio", "msgpack", "_hashlib", "logging.config", "logging.handlers",
    "offload.consumers", "offload.layers.front", "offload.observe.statsd", "offload.server.process", "difflib",
)  # fmt: skip


def test_the_supervisor_and_scripts_never_import_gevent_or_a_layer() -> None:
    code = f"import sys, offload, offload.cli; print([name for name in {_NOT_AT_THE_START} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert output.stdout.strip() == "[]"


def test_a_file_has_a_name_of_its_own() -> None:
    completed_by_their_packages = {"__init__.py", "connection.py", "server.py", "settings.py"}
    names = Counter(path.name for path in (ROOT / "offload").rglob("*.py"))
    assert {name for name, number in names.items() if number > 1} <= completed_by_their_packages


TESTS = sorted((ROOT / "tests").rglob("*.py"))
# Of another object than the one whose method it is, also in programs that tests run.
REACHED = re.compile(r"""(?<!\bself)(?<!\bcls)\.(_[a-z]\w*)|setattr\([^,()]+, ["'](_[a-z]\w*)["']""")
OTHERS = {"_exit", "_current_frames", "_get_content", "_ids"}
"""Of ``os`` and ``sys``; of Channels 1, whose users call it; of what a hook of a gunicorn user keeps."""


def private_names() -> set[str]:
    """All of ours that begin with an underscore."""
    found: set[str] = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name):
                found.add(node.id)
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - OTHERS


def test_no_test_uses_a_private_name() -> None:
    private = private_names()
    used = []
    for path in TESTS:
        text = path.read_text()
        names = {name for match in REACHED.finditer(text) for name in match.groups() if name}
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.startswith(("offload", "django_offload"))
            ):
                names.update(alias.name for alias in node.names)
        used += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(names & private)]
    assert not used


def test_a_file_is_a_room_not_a_fragment() -> None:
    """A package's face may be short, and so may what Python runs by its name."""
    named_by_python = {"__init__.py", "__main__.py"}
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "offload").rglob("*.py")}
    fragments = [str(path.relative_to(ROOT)) for path, number in lines.items() if number < 40]
    assert not [path for path in fragments if Path(path).name not in named_by_python]
