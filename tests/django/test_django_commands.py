"""``manage.py send`` and ``manage.py group_send``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings
from testsite.tools import Client

from offload import Group, route
from offload.consumers.configuration import layer_for
from tests.serving import ROOT

MEMORY = "offload.layers.memory.MemoryLayer"


@pytest.fixture
def client() -> Client:
    return Client(route("websocket.connect", lambda message: Group("news").add(message.reply_channel))).connect()


def test_group_send_reaches_the_members(client: Client) -> None:
    call_command("group_send", "news", '{"text": "hello"}')

    assert client.sent == [{"text": "hello"}]


def test_send_reaches_a_client_and_a_queue(client: Client) -> None:
    call_command("send", client.name, '{"text": "hello", "close": true}')
    call_command("send", "thumbnails.generate", '{"id": 7}')

    assert client.sent == [{"text": "hello", "close": True}]
    assert layer_for().receive(["thumbnails.generate"], timeout=0) == ("thumbnails.generate", {"id": 7})


def test_send_takes_the_layers_alias() -> None:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": MEMORY}, "images": {"BACKEND": MEMORY}}):
        call_command("send", "resize", '{"id": 7}', alias="images")

        assert layer_for("images").receive(["resize"], timeout=0) == ("resize", {"id": 7})
        assert layer_for().receive(["resize"], timeout=0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["group_send", "news", "hello"],
            "'hello' is not JSON (Expecting value: line 1 column 1 (char 0)); "
            """write an object, as in '{"text": "hello"}'""",
        ),
        (
            ["group_send", "news", '"hello"'],
            """'"hello"' is not a JSON object; write for instance '{"text": "hello"}'""",
        ),
        (["send", "thumbnails", "[1]"], """'[1]' is not a JSON object; write for instance '{"text": "hello"}'"""),
        (
            ["send", "thumbnails", "{}", "--alias=images"],
            "no channel layer is configured as 'images' (configured: 'default'); call "
            'offload.configure("redis://127.0.0.1:6379/0"), or set CHANNEL_LAYERS in Django\'s settings',
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command(*arguments)

    assert str(caught.value) == message


@pytest.mark.parametrize("command", ["send", "group_send"])
def test_content_that_is_nested_too_deeply_is_told(command: str) -> None:
    for content, message in (
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "the content is nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "content is nested more than 100 levels deep"),
    ):
        with pytest.raises(CommandError) as caught:
            call_command(command, "news", content)
        assert str(caught.value) == message


@pytest.mark.parametrize("name", ["a name", "x" * 100])
def test_names_that_are_none_are_refused(name: str) -> None:
    for command in ("send", "group_send"):
        with pytest.raises(CommandError, match="name"):
            call_command(command, name, "{}")


def test_a_full_channel_is_told() -> None:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": MEMORY, "CONFIG": {"capacity": 1}}}):
        call_command("send", "thumbnails", "{}")
        with pytest.raises(CommandError, match="thumbnails"):
            call_command("send", "thumbnails", "{}")


@pytest.mark.parametrize("command", ["send", "group_send"])
def test_an_unavailable_layer_is_told_in_one_sentence(command: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    path = tmp_path / "run" / "hub.sock"
    with (
        override_settings(CHANNEL_LAYERS={"default": {"URL": f"ipc://{path}?timeout=0.1"}}),
        pytest.raises(CommandError, match=rf"^layer 'ipc' cannot reach its hub at {path}: .+; .+$"),
    ):
        call_command(command, "news", "{}")


def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "testsite.settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_from_the_command_line_the_memory_layer_reaches_nobody_and_says_so() -> None:
    done = manage("group_send", "news", '{"text": "hello"}')

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "CommandError: the layer 'default' lives in the memory of this process, so the message reached nobody; "
        "use the IPC or the Redis layer in CHANNEL_LAYERS\n"
    )


def test_from_the_command_line_a_mistake_is_one_line_and_status_1() -> None:
    done = manage("group_send", "news", "hello")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("CommandError: 'hello' is not JSON (")
    assert done.stderr.count("\n") == 1


def test_from_the_command_line_an_unavailable_layer_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "chat" / "manage.py"), "group_send", "chat-lobby", "{}"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SECRET_KEY": "x",
            "OFFLOAD_LAYER": f"ipc:///{tmp_path}/none.sock?timeout=0.1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("CommandError: layer 'ipc' cannot reach its hub at ")
    assert done.stderr.count("\n") == 1
