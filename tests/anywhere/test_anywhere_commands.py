"""``offload send`` and ``offload group-send``, as a shell or cron runs them: they reach clients, or say why not."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.anywhere.places import Place
from tests.serving import DEADLINE, ROOT, Server

HELLO = '{"text": "hello"}'
APP = """
from offload import Group, route

def application(environ, start_response): ...

def enter(message):
    Group("room").add(message.reply_channel)
    message.reply_channel.send({"text": message.reply_channel.name})

channel_routing = [route("websocket.connect", enter)]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    (directory / "shop.py").write_text(APP)
    return directory


def offload(*arguments: str | bytes, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "offload", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OFFLOAD_RUNTIME_DIR": str(cwd / "run"), **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def sent(*arguments: str, **more: str | Path) -> None:
    done = offload(*arguments, **more)  # type: ignore[arg-type]
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def refused(*arguments: str | bytes, status: int, **more: str | Path) -> str:
    """The one line."""
    done = offload(*arguments, **more)  # type: ignore[arg-type]
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("offload: error: ")
    return line.removeprefix("offload: error: ")


@pytest.fixture(scope="module")
def site(meeting: Place, directory: Path) -> Iterator[Server]:
    server = Server("shop", "--layer", meeting.url, workers=2, cwd=directory, env={"PYTHONPATH": f"{directory}:{ROOT}"})
    yield server
    assert server.stop() == 0, server.log


def test_clients_are_reached_one_or_all(meeting: Place, site: Server) -> None:
    address = site.url("/", "ws")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(4)]
        names = [str(client.recv(DEADLINE)) for client in clients]
        assert len(set(names)) == 4
        sent("group-send", "--layer", meeting.url, "room", '{"text": "to all: Grüße"}')
        assert [client.recv(DEADLINE) for client in clients] == ["to all: Grüße"] * 4
        sent("send", "--layer", meeting.url, names[2], '{"text": "to one"}')
        assert clients[2].recv(DEADLINE) == "to one"
        sent("group-send", "room", '{"text": "by the environment"}', OFFLOAD_LAYER=meeting.url)
        assert [client.recv(DEADLINE) for client in clients] == ["by the environment"] * 4
    # Nobody is there any more, which is no error.
    sent("send", "--layer", meeting.url, names[2], HELLO)
    sent("group-send", "--layer", meeting.url, "room", HELLO)


def test_a_text_that_no_client_can_be_sent_harms_none(meeting: Place, site: Server) -> None:
    with connect(site.url("/", "ws")) as client:
        name = str(client.recv(DEADLINE))
        sent("group-send", "--layer", meeting.url, "room", r'{"text": "half a character: \ud800"}')
        sent("send", "--layer", meeting.url, name, HELLO)
        assert client.recv(DEADLINE) == "hello"


def test_a_channel_keeps_what_is_sent_until_somebody_takes_it(meeting: Place) -> None:
    sent("send", "--layer", meeting.url, "jobs", '{"text": "hello", "list": [1, 2.5, null, true, {"a": "b"}]}')
    with meeting.layer() as layer:
        found = layer.receive(["jobs"], timeout=DEADLINE)
    assert found == ("jobs", {"text": "hello", "list": [1, 2.5, None, True, {"a": "b"}]})


def test_a_full_channel_is_named(meeting: Place) -> None:
    address = f"{meeting.url}?capacity=1&expiry=600"
    sent("send", "--layer", address, "full", HELLO)
    assert refused("send", "--layer", address, "full", HELLO, status=1) == (
        "channel 'full' holds 1 messages, which is its capacity"
    )
    with meeting.layer() as layer:
        assert layer.receive(["full"], timeout=DEADLINE) == ("full", {"text": "hello"})


def test_a_message_over_the_limit_is_refused(meeting: Place) -> None:
    content = '{"text": "%s"}' % ("x" * 100)
    line = refused("send", "--layer", f"{meeting.url}?max_size=50", "jobs", content, status=1)
    assert line == "message of 100 bytes is over the layer's limit of 50 (setting 'max_size')"


def test_an_absent_hub_is_named(tmp_path: Path) -> None:
    # At once, which the time limits say that are longer than any test.
    line = refused("group-send", "--layer", "ipc:?timeout=1000", "room", HELLO, status=1, cwd=tmp_path)
    assert line.startswith(f"layer 'ipc' cannot reach its hub at {tmp_path}/run/")
    assert line.endswith(": no such file; start 'offload APP' in this directory, or name the socket with ipc:///path")
    # A hub that was killed leaves its socket behind.
    dead = tmp_path / "run" / "dead.sock"
    dead.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    dead.chmod(0o600)
    line = refused("send", "--layer", f"ipc://{dead}?timeout=1000", "jobs", HELLO, status=1)
    assert line == (
        f"layer 'ipc' cannot reach its hub at {dead}: connection refused;"
        " start 'offload APP' in this directory, or name the socket with ipc:///path"
    )


def test_an_unreachable_redis_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for command in ("send", "group-send"):
            line = refused(command, "--layer", f"redis://me:secret@127.0.0.1:{port}/0", "room", HELLO, status=1)
            assert line == (
                f"layer 'redis' cannot reach redis://127.0.0.1:{port}/0: connection refused;"
                " start Redis there, or choose another layer"
            )


def test_a_redis_that_does_not_answer_is_waited_for_in_bounds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        line = refused("send", "--layer", f"redis://127.0.0.1:{port}/0?timeout=0.2", "jobs", HELLO, status=1)
    assert line == (
        f"layer 'redis' cannot reach redis://127.0.0.1:{port}/0: no answer within 0.2 s;"
        " start Redis there, or choose another layer"
    )


def test_the_help_names_what_is_needed() -> None:
    done = offload("group-send", "--help")
    assert done.returncode == 0
    assert "usage: offload group-send [-h] [--layer URL] GROUP JSON" in done.stdout


def test_a_hub_is_found_by_the_directory(directory: Path) -> None:
    """As the documentation promises: the site's directory is the site's hub."""
    env = {"PYTHONPATH": f"{directory}:{ROOT}", "OFFLOAD_RUNTIME_DIR": str(directory / "run")}
    server = Server("shop", cwd=directory, env=env)
    try:
        with connect(server.url("/", "ws")) as client:
            client.recv(DEADLINE)
            sent("group-send", "room", HELLO, cwd=directory)
            assert client.recv(DEADLINE) == "hello"
    finally:
        assert server.stop() == 0, server.log
