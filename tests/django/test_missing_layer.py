"""Sends from a process whose layer is not there, or is another than the servers'."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import override_settings

from offload import Channel, Group
from offload.exceptions import LayerUnreachable
from tests.serving import ROOT, Server


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "run").mkdir(mode=0o700)
    return {"CHANNEL_LAYERS": {"default": {"URL": f"ipc://{tmp_path}/run/hub.sock"}}}


def test_a_send_without_a_hub_raises_what_to_do(nowhere: dict[str, Any]) -> None:
    with (
        override_settings(**nowhere),
        pytest.raises(LayerUnreachable, match=r"cannot reach its hub at .* start 'offload"),
    ):
        Group("news").send({"text": "hello"})


def test_a_send_without_a_hub_may_be_logged(nowhere: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(**nowhere, OFFLOAD_MISSING_LAYER="log"), caplog.at_level(logging.WARNING, "offload.layer"):
        Group("news").send({"text": "hello"})
        Channel("thumbnails").send({"id": 1})
        with pytest.raises(LayerUnreachable):
            Group("news").add("websocket.send.x!y")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(line.startswith("a message is lost: layer 'ipc' cannot reach its hub at ") for line in said)


SITE = """
from django.conf import settings
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], INSTALLED_APPS=["django_offload"],
    CHANNEL_LAYERS={"default": {"URL": "ipc://%s/run/own.sock"}},
)
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""


def test_a_server_tells_of_another_layer_than_the_settings(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "site_of_two.py").write_text(SITE % tmp_path)
    own, other = f"ipc://{tmp_path}/run/own.sock", f"ipc://{tmp_path}/run/other.sock"
    server = Server("site_of_two", "--layer", other, cwd=tmp_path)
    server.stop()
    assert f"--layer names {other}, and the application's own default layer is {own}, which its commands" in server.log
    server = Server("site_of_two", "--layer", own, cwd=tmp_path)
    server.stop()
    assert "own default layer" not in server.log


def test_a_command_tells_of_another_layer_than_the_servers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "django", "group_send", "news", "{}"],
        cwd=Path(__file__).parent,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "testsite.settings",
            "OFFLOAD_LAYER": "redis://127.0.0.1:6379/0",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.startswith(
        "warning: OFFLOAD_LAYER names redis://127.0.0.1:6379/0, which servers started from this shell use; "
        "CHANNEL_LAYERS names memory://, which this command uses\n"
    )


def test_a_command_is_content_with_the_same_layer(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("OFFLOAD_LAYER", "memory://")
    call_command("group_send", "news", "{}")
    assert capfd.readouterr().err == ""
