"""Slips on the command line and in the environment: each has its one line, with the right remedy and status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offload import cli
from tests.server.test_bad_input import ROOT, error_of, offload
from tests.serving import Server

MEMORY = ("--layer", "memory://")
LARGE = "99999999999999999999"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text("number = 1\n\n\ndef application(environ, start_response): ...\n")
    (tmp_path / "work.py").write_text(
        "from offload import route\n\n\ndef job(message): ...\n\n\nchannel_routing = [route('job', job)]\n"
    )
    (tmp_path / "failing_routing.py").write_text("channel_routing = [][1]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["shop", "-b", f"fd://{LARGE}"], f"cannot listen at fd://{LARGE}: Bad file descriptor", 2),
        (["shop", "-b", "fd://\u00b2"], "the address 'fd://\u00b2' is not fd://N with a number", 2),
        (["shop", "-w", "2147483647"], "--workers is 2147483647, but it must be from 1 to 4096", 2),
        (["shop", "--wibble", "4"], "unknown option '--wibble'; 'offload --help' lists all", 2),
        (
            ["shop", "--routing", "nothing"],
            "--routing is 'nothing', which is not MODULE:NAME, for instance project.routing:channel_routing",
            2,
        ),
        (["shop:number.foo"], "module 'shop' has no 'number.foo'; name yours as shop:NAME", 3),
        (
            ["shop:create_app()"],
            "'shop:create_app()' is a call, and offload calls nothing to get an application; "
            "write application = create_app() in 'shop', and name shop:application",
            3,
        ),
        (
            ["settings"],
            "cannot import 'settings': there is no module 'settings' in {here} or on the Python path; "
            "the commands are worker, send and group-send",
            3,
        ),
        (
            ["shop.settings:app"],
            "cannot import 'shop.settings': there is no module 'shop.settings' in {here} or on the Python path",
            3,
        ),
    ],
)
def test_slips_on_the_command_line(project: Path, arguments: list[str], message: str, status: int) -> None:
    bind = () if "-b" in arguments else ("-b", "127.0.0.1:0")
    result = offload(*arguments, *bind, *MEMORY, cwd=project)
    assert error_of(result) == message.replace("{here}", str(project))
    assert result.returncode == status


def test_hint_names_all_commands() -> None:
    assert cli.COMMANDS == ("worker", "send", "group-send")


@pytest.mark.parametrize("port", ["abc", "99999", "\u0663"])
def test_port_that_is_none_is_named(project: Path, port: str) -> None:
    result = offload("shop", *MEMORY, cwd=project, PORT=port)
    assert error_of(result) == f"PORT is {port!r}, which is not the number of a port"
    assert result.returncode == 2


def test_variable_that_is_nearly_a_setting_ends_the_start(project: Path) -> None:
    result = offload("shop", *MEMORY, cwd=project, OFFLOAD_WORKES="4")
    assert error_of(result) == "unknown variable OFFLOAD_WORKES; did you mean OFFLOAD_WORKERS?"
    assert result.returncode == 2


def test_other_variables_are_named_and_ignored(project: Path) -> None:
    # As a container's environment has them for a service of that name; a port that is not used is not looked at.
    env = {
        "OFFLOAD_SERVICE_HOST": "10.0.0.1",
        "OFFLOAD_PORT": "tcp://10.0.0.1:80",
        "PORT": "abc",
        "PYTHONPATH": str(ROOT),
    }
    server = Server("shop", *MEMORY, "-b", "127.0.0.1:0", cwd=project, env=env)
    try:
        assert "[WARNING] not settings, and ignored: OFFLOAD_PORT, OFFLOAD_SERVICE_HOST" in server.log
    finally:
        server.stop()


def test_directory_that_is_gone(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m offload shop -b 127.0.0.1:0"
    result = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=30,
    )  # fmt: skip
    assert error_of(result) == (
        "the current directory is gone: No such file or directory; change to another, or name one with --chdir"
    )
    assert result.returncode == 2


def test_worker_that_nothing_can_reach_says_so(project: Path) -> None:
    worker = Server("worker", "work", *MEMORY, cwd=project)
    try:
        worker.wait_for(
            "the layer 'default' is this worker's own memory, so no other process's messages arrive; use ipc: or redis:"
        )
    finally:
        worker.stop()


def test_fault_of_the_routing_is_not_said_of_the_application(project: Path) -> None:
    result = offload("shop", "-b", "127.0.0.1:0", *MEMORY, "--routing", "failing_routing:channel_routing", cwd=project)
    assert result.returncode == 3
    assert (
        result.stderr.splitlines()[-1] == "offload: error: starting 'shop' failed: IndexError: list index out of range"
    )


@pytest.mark.parametrize("command", ["send", "group-send"])
def test_wrong_name_is_a_wrong_command_line(command: str) -> None:
    result = offload(command, "--layer", "redis://127.0.0.1:1/0", "bad name", "{}")
    assert "'bad name'" in error_of(result)
    assert result.returncode == 2
