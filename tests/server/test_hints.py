"""Slips on the command line and in the environment: each has its one line, with the right remedy and status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
