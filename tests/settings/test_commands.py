"""The commands that look without serving: ``offload check`` and ``offload settings``, and gunicorn's flags for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from offload import cli
from tests.serving import DEADLINE, ROOT

APP = """
from offload import route

def connect(message): ...
def application(environ, start_response): ...

channel_routing = [route("websocket.connect", connect, path="^/$")]
bad_routing = [route("websocket.conect", connect)]
"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.partition(" = ")[0]: line.partition(" = ")[2] for line in lines}


def test_settings_are_printed_with_their_sources(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("gunicorn.conf.py").write_text("keepalive = 0\ndef post_fork(server, worker): ...\nraw_env = ['A=1']\n")
    monkeypatch.setenv("OFFLOAD_WS_QUEUE", "7")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--timeout 0")
    lines = printed(capsys, "settings", "shop", "--workers", "3")
    assert lines["workers"] == "3                                       # --workers"
    assert lines["keep_alive"].split() == ["0.0", "#", "keepalive", "in", "gunicorn.conf.py"]
    assert lines["timeout"].split() == ["0", "#", "--timeout", "in", "GUNICORN_CMD_ARGS"]
    assert lines["ws_queue"].split() == ["7", "#", "OFFLOAD_WS_QUEUE"]
    assert lines["env"].split() == ["['A=1']", "#", "raw_env", "in", "gunicorn.conf.py"]
    assert lines["layer"].split() == ["['ipc:']", "#", "default"]
    assert lines["post_fork"].split() == ["__config__.post_fork", "#", "post_fork", "in", "gunicorn.conf.py"]
    assert lines["limit_request_body"].split() == ["0", "#", "default"]


def test_printed_settings_are_a_configuration_file(capsys: pytest.CaptureFixture[str]) -> None:
    before = printed(capsys, "settings", "--ws-queue", "7", "--max-rss", "5", "--ws-origins", "a.example,b.example")
    Path("offload.conf.py").write_text("\n".join(f"{name} = {value}" for name, value in before.items()))
    after = printed(capsys, "settings")
    values = [{name: text.partition("#")[0].strip() for name, text in lines.items()} for lines in (before, after)]
    assert values[0] == values[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offload", *arguments], env={**os.environ, "PYTHONPATH": f"{os.getcwd()}:{ROOT}"},
        capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip


def test_check_of_what_is_right() -> None:
    Path("shop.py").write_text(APP)
    result = run("check", "shop", "--layer", "redis://127.0.0.1:1/0", "--threads", "4")
    assert (result.returncode, result.stdout) == (0, "shop: nothing is wrong\n")
    assert "[WARNING] --threads 4 has no effect: " in result.stderr
    # Where a project is built, no Redis need be there.
    assert result.stderr.splitlines()[-1] == (
        "offload: warning: layer 'redis' cannot reach redis://127.0.0.1:1/0: connection refused; "
        "start Redis there, or choose another layer"
    )


def test_check_of_addresses(tmp_path: Path) -> None:
    Path("shop.py").write_text(APP)
    addresses = {
        "127.0.0.1:70000": "the port of the address '127.0.0.1:70000' must be from 0 to 65535",
        "shop": "the address 'shop' is not HOST:PORT, unix:PATH or fd://N",
        "192.0.2.1:8000": "cannot listen at 192.0.2.1:8000: this machine has no such address",
        "unix:/none/such.sock": "cannot listen at unix:/none/such.sock: No such file or directory",
        f"unix:{tmp_path}/shop.py": f"cannot listen at unix:{tmp_path}/shop.py: a file that is no socket is there",
        "fd://three": "the address 'fd://three' is not fd://N with a number",
        "fd://7": None,
        "127.0.0.1:0": None,
        f"unix:{tmp_path}/shop.sock": None,
    }
    result = run("check", "shop", *(part for address in addresses for part in ("-b", address)))
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if not line.startswith("[")] == [
        f"offload: error: {problem}" for problem in addresses.values() if problem is not None
    ]
    assert not Path("shop.sock").exists()


@pytest.mark.parametrize("kind", [socket.AF_INET, socket.AF_UNIX])
def test_check_beside_a_server_that_has_the_address(kind: socket.AddressFamily, tmp_path: Path) -> None:
    Path("shop.py").write_text(APP)
    with socket.socket(kind) as other:
        other.bind(("127.0.0.1", 0) if kind == socket.AF_INET else f"{tmp_path}/shop.sock")
        other.listen()
        where = other.getsockname()
        address = f"127.0.0.1:{where[1]}" if kind == socket.AF_INET else f"unix:{where}"
        result = run("check", "shop", "-b", address)
        assert (result.returncode, result.stdout) == (0, "shop: nothing is wrong\n")
        # And has it still.
        with socket.socket(kind) as client:
            client.connect(where)


def test_check_of_what_is_wrong() -> None:
    Path("shop.py").write_text(APP)
    result = run("shop", "--print-config", "--routing", "shop:bad_routing", "--certfile", "none.pem", "-w", "2")
    assert result.returncode == 1
    assert "workers = 2" in result.stdout
    assert [line for line in result.stderr.splitlines() if not line.startswith("[")] == [
        "offload: error: shop.bad_routing[0] names the unknown channel 'websocket.conect'; "
        "did you mean 'websocket.connect'?",
        "offload: error: cannot read 'none.pem' for TLS: No such file or directory",
    ]


@pytest.mark.parametrize("arguments", [("check", "shop"), ("shop", "--check-config"), ("shop", "--print-config")])
def test_check_of_settings_that_are_wrong(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    Path("gunicorn.conf.py").write_text("workers = 'many'\n")
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err == (
        "offload: error: workers in gunicorn.conf.py is 'many', which is not a whole number\n"
    )


def test_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m offload settings | head -n 1"
    result = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=DEADLINE,
    )  # fmt: skip
    assert result.stdout.startswith("bind = ")
    assert result.stderr == ""
