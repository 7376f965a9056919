"""Layers of other packages: an installed distribution names them, and addresses find them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import json
from offload.layers.memory import MemoryLayer

class ShelfLayer(MemoryLayer):
    name = "shelf"
    extra_settings = {"depth": int}

    def __init__(self, address, *, depth=1, **settings):
        super().__init__(**settings)
        print(json.dumps([address, depth, self.capacity]))

class NoLayer:
    pass
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where a package is installed that brings layers."""
    place = tmp_path_factory.mktemp("shelf")
    wheel = place / "shelf_layer-1.0-py3-none-any.whl"
    info = "shelf_layer-1.0.dist-info"
    files = {
        "shelf_layer.py": MODULE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: shelf-layer\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": (
            "[offload.layers]\nshelf = shelf_layer:ShelfLayer\nbroken = shelf_layer.nothing:Layer\n"
            "strange = shelf_layer:NoLayer\nredis = shelf_layer:NoLayer\n"
        ),
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    target = place / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
    )
    return target


def run(installed, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def send(installed, address):
    return run(installed, "-m", "offload", "send", "--layer", address, "queue", "{}")


def test_address_of_an_installed_layer_makes_it_with_its_settings(installed):
    done = send(installed, "shelf://user:secret@attic/left?depth=3&capacity=7")
    assert done.stdout == '["shelf://user:secret@attic/left", 3, 7]\n', done.stderr


def test_setting_that_an_installed_layer_does_not_have_is_named(installed):
    done = send(installed, "shelf://attic?dept=3")
    assert done.returncode == 2
    assert "layer 'shelf' has no setting 'dept'; did you mean 'depth'?" in done.stderr


def test_complaints_about_an_installed_layers_address_show_no_password(installed):
    done = send(installed, "shelf://user:secret@attic#left")
    assert done.returncode == 2
    assert "layer address 'shelf://***@attic' cannot be read" in done.stderr
    assert "secret" not in done.stderr


def test_scheme_that_is_like_an_installed_one_is_told(installed):
    done = send(installed, "shelve://attic")
    assert "has the unknown scheme 'shelve'; did you mean 'shelf'?" in done.stderr


def test_installed_layer_that_cannot_be_used_is_named_with_its_package(installed):
    broken, strange = send(installed, "broken://"), send(installed, "strange://")
    assert broken.returncode == strange.returncode == 2
    assert (
        "layer 'broken' of the installed package 'shelf-layer' cannot be imported: ModuleNotFoundError: No module named"
        " 'shelf_layer.nothing'"
    ) in broken.stderr
    assert (
        "layer 'strange' of the installed package 'shelf-layer' is 'shelf_layer:NoLayer', which is no subclass of"
        " offload.layers.front.LayerBase"
    ) in strange.stderr


def test_schemes_of_our_own_layers_stay_ours(installed):
    done = run(
        installed,
        "-c",
        "from offload.layers.addresses.urls import layer_from_url; print(layer_from_url('redis://h').name)",
    )
    assert done.stdout == "redis\n", done.stderr


DJANGO = """
import django
from django.conf import settings
settings.configure(CHANNEL_LAYERS={{"default": {entry}}}, INSTALLED_APPS=["django_offload"])
django.setup()
from django_offload.conf import build_layer
build_layer("default")
"""


@pytest.mark.parametrize(
    "entry",
    [
        {"URL": "shelf://attic?capacity=7"},
        {"BACKEND": "shelf_layer.ShelfLayer", "CONFIG": {"address": "shelf://attic", "capacity": 7}},
    ],
    ids=["url", "backend"],
)
def test_channel_layers_of_django_take_an_installed_layer(installed, entry):
    done = run(installed, "-c", DJANGO.format(entry=entry))
    assert done.stdout == '["shelf://attic", 1, 7]\n', done.stderr
