"""The files of ``conf/`` for systemd, Redis, containers and process managers, loaded by the real programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.deployment.programs import CONF, program, running, shipped
from tests.redis_server import free_port, require_redis
from tests.serving import DEADLINE, ROOT

UNITS = ["offload.service", "offload-worker.service"]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A directory with all our units; the site is somewhere else than on a real machine."""
    places = {"/srv/project/.venv/bin/offload": "/usr/bin/env", "/srv/project": "/tmp"}
    for name in UNITS:
        (tmp_path / name).write_text(shipped(f"systemd/{name}", places))
    (tmp_path / "offload.socket").write_text(shipped("systemd/offload.socket", {}))
    return tmp_path


@pytest.mark.parametrize("name", [*UNITS, "offload.socket"])
def test_systemd_approves_of_a_unit(name: str, units: Path) -> None:
    verified = subprocess.run(
        [program("systemd-analyze", "systemd"), "verify", str(units / name)],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}, timeout=DEADLINE,
    )  # fmt: skip
    # Other units of the machine may have faults of their own.
    ours = [line for line in verified.stderr.splitlines() if "offload" in line]
    assert (verified.returncode, ours) == (0, [])


def test_a_redis_with_our_file_serves_a_layer(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "redis.conf"
    file.write_text(shipped("redis/redis.conf", {"port 6379": f"port {port}"}))
    client = redis.Redis(port=port, socket_timeout=DEADLINE)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError as error:
            raise OSError(str(error)) from error

    with client, running([require_redis(), str(file), "--dir", str(tmp_path), "--logfile", "log"], answers):
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        sent = subprocess.run(
            [sys.executable, "-m", "offload", "send", "--layer", f"redis://127.0.0.1:{port}/0", "jobs", "{}"],
            cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr


def test_compose_reads_our_file() -> None:
    file = CONF / "docker/compose.yaml"
    command = [program("docker-compose", "docker-compose"), "--file", str(file), "config", "--services"]
    read = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (read.returncode, set(read.stdout.split())) == (0, {"site", "worker", "redis"}), read.stderr
