"""What processes are to the system: their user, their group, and their titles."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT, read_all, serving

APP = """
import json, os

def application(environ, start_response):
    with open("/proc/self/cmdline") as line:
        title = line.read().strip("\\0")
    body = json.dumps([os.geteuid(), os.getegid(), os.getgroups(), title]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

READS_ALL = ("setpriv", "--securebits", "+no_setuid_fixup", "--bounding-set", "-dac_override", "--")
"""What becomes another user may read as root does: Python may be in a directory of root's."""


@pytest.fixture
def project() -> Iterator[Path]:
    # Where another user may go, as he may not in pytest's directories.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        (Path(directory) / "shop.py").write_text(APP)
        yield Path(directory)


def test_server_processes_have_titles_and_the_socket_its_mode(project: Path) -> None:
    pytest.importorskip("setproctitle")
    with serving(
        "shop", "--layer", "memory://", "--umask", "027", "--name", "corner", "--bind", f"unix:{project}/http",
        cwd=project, env={"PYTHONPATH": f"{project}:{ROOT}"},
    ) as server:  # fmt: skip
        assert stat.S_IMODE((project / "http").stat().st_mode) == 0o750
        assert ask(project / "http")[3:] == ["offload: server process [corner]"]
        title = Path(f"/proc/{server.process.pid}/cmdline").read_text().strip("\0")
        assert title == "offload: supervisor [corner]"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_server_processes_run_as_the_user_and_group_and_the_supervisor_does_not(project: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    with serving(
        "shop", "--user", "nobody", "--group", str(nobody.pw_gid), "--bind", f"unix:{project}/http",
        cwd=project, env={"PYTHONPATH": f"{project}:{ROOT}"}, wrapper=READS_ALL,
    ) as server:  # fmt: skip
        assert ask(project / "http")[:3] == [nobody.pw_uid, nobody.pw_gid, [nobody.pw_gid]]
        assert (project / "http").stat().st_uid == nobody.pw_uid
        assert Path(f"/proc/{server.process.pid}").stat().st_uid == 0


def ask(path: Path) -> list[object]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer: list[object] = json.loads(read_all(sock).partition(b"\r\n\r\n")[2])
        return answer
