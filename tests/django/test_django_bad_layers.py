"""A project whose ``CHANNEL_LAYERS`` is wrong: one line, from the server and from the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import DEADLINE, ROOT

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django_offload"]
ROOT_URLCONF = "urls"
CHANNEL_LAYERS = {layers!r}
"""
WSGI = """
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{directory}:{ROOT}", "DJANGO_SETTINGS_MODULE": "settings"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=directory, env=env, capture_output=True, text=True, timeout=DEADLINE
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            {"images": {"URL": "memory://"}},
            "CHANNEL_LAYERS has 'images', but no 'default', the one that serves WebSockets; add it",
        ),
        (
            {"default": {"URL": 6379}},
            "CHANNEL_LAYERS['default'] has the URL 6379; write an address such as 'redis://127.0.0.1:6379/0'",
        ),
        (
            {"default": {"URL": ["redis://127.0.0.1:6379/0", None]}},
            "CHANNEL_LAYERS['default'] has the URL <list>; write an address such as 'redis://127.0.0.1:6379/0'",
        ),
        (
            {"default": {"BACKEND": "offload.layers.redis.RedisLayer", "CONFIG": {"hosts": [6379]}}},
            "layer 'redis' has the host 6379; a host is a URL such as 'redis://host:6379/0', "
            "or a pair such as ('host', 6379)",
        ),
        (
            {"default": {"BACKEND": "offload.layers.redis.RedisLayer", "CONFIG": {"hosts": 6379}}},
            "layer 'redis' has hosts=6379; it takes a list such as ['redis://host:6379/0']",
        ),
    ],
)
def test_a_mistake_in_channel_layers_is_one_line(tmp_path: Path, layers: object, message: str) -> None:
    (tmp_path / "settings.py").write_text(SETTINGS.format(layers=layers))
    (tmp_path / "urls.py").write_text("urlpatterns = []\n")
    (tmp_path / "wsgi.py").write_text(WSGI)

    served = run(tmp_path, "offload", "wsgi", "-b", "127.0.0.1:0")
    sent = run(tmp_path, "django", "group_send", "room", "{}")

    lines = [line for line in served.stderr.splitlines() if not line.startswith("[")]
    assert (served.returncode, lines) == (3, [f"offload: error: {message}"])
    assert (sent.returncode, sent.stderr) == (1, f"CommandError: {message}\n")
