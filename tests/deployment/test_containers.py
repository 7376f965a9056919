"""The container's and the process manager's files of ``conf/``, run as these run them.

That is as process 1 of a machine of its own, as a user whom nobody knows, with a file system that is read-only but for
``/tmp``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deployment.programs import CONF, program, until
from tests.distributions import build
from tests.namespaces import connect_inside, machines
from tests.serving import DEADLINE, ROOT, read_all

SITE = """
import json, os, subprocess
from offload import route

def application(environ, start_response):
    if environ["PATH_INFO"] == "/orphan":
        # Its parent ends before it, and leaves it to process 1.
        told = int(subprocess.run(["sh", "-c", "sleep 0 >&2 & echo $!"], capture_output=True).stdout)
    elif environ["PATH_INFO"] == "/there":
        told = os.path.exists("/proc/" + environ["QUERY_STRING"])
    else:
        try:
            open("new", "w").close()
            told = "writable"
        except OSError:
            told = [os.getuid(), os.getppid(), os.environ["WEB_CONCURRENCY"]]
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def done(message): ...

channel_routing = [route("job", done)]
"""
# Each run its own: the hub's directory goes by it.
USER = 1_000_000 + os.getpid()
CONTAINER = (
    "mount --bind /tmp /tmp && mount -o remount,bind,ro / && "
    # Python may be in a directory of root's: it may read there, and write nowhere that others may not.
    f"exec setpriv --reuid {USER} --regid {USER} --clear-groups"
    ' --inh-caps +dac_read_search --ambient-caps +dac_read_search -- "$@"'
)


@pytest.fixture
def project() -> Iterator[Path]:
    # Where another user may read, as he may not in pytest's directories, and not write.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        (Path(directory) / "project").mkdir()
        (Path(directory) / "project/wsgi.py").write_text(SITE)
        yield Path(directory)
    # Of its hub.
    shutil.rmtree(f"/tmp/offload-{USER}", ignore_errors=True)


@contextlib.contextmanager
def started(command: list[str], project: Path, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    found = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    found = {name: value for name, value in found.items() if not name.startswith("OFFLOAD_")}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=project, env={**found, **env}, stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def is_in(log: Path, pattern: str, times: int = 1) -> bool:
    return len(re.findall(pattern, log.read_text())) >= times


def ask(machine: str, port: int, path: str) -> object:
    with connect_inside(machine, ("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return json.loads(read_all(sock).partition(b"\r\n\r\n")[2])


@dataclass
class Image:
    """What the steps of a Dockerfile make of a directory, run without a builder.

    Args:
        directory: the image's file system; a new virtual environment stands for the base image's Python.
    """

    directory: Path
    env: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workdir = self.directory
        venv.create(self.directory / "python", with_pip=True)
        self.env["PATH"] = f"{self.directory}/python/bin:{os.environ['PATH']}"

    def build(self, dockerfile: str, context: Path) -> None:
        for line in dockerfile.splitlines():
            if line and not line.startswith("#"):
                self._take(*line.split(maxsplit=1), context)

    def _take(self, instruction: str, argument: str, context: Path) -> None:
        if instruction == "ENV":
            self.env.update(pair.split("=") for pair in argument.split())
        elif instruction == "WORKDIR":
            self.workdir = self.directory / argument.lstrip("/")
            self.workdir.mkdir(parents=True)
        elif instruction == "COPY":
            source, target = (root / name for root, name in zip((context, self.workdir), argument.split(), strict=True))
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        elif instruction == "RUN":
            subprocess.run(argument, shell=True, cwd=self.workdir, env=self.env, check=True)
        elif instruction == "CMD":
            self.command = json.loads(argument)
        else:
            assert instruction in ("FROM", "USER", "EXPOSE"), f"this test cannot run {instruction} {argument}"


@pytest.fixture
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Image(Path(directory))


def test_the_image_serves_as_process_1_of_any_user_on_a_read_only_file_system(
    image: Image, project: Path, tmp_path: Path
) -> None:
    (wheel,) = build(tmp_path, "--wheel").glob("*.whl")
    (project / "requirements.txt").write_text(f"django-offload @ {wheel.as_uri()}\n")
    image.build((CONF / "docker/Dockerfile").read_text(), context=project)
    command, env, log = image.command, {**image.env, "PYTHONPATH": ""}, tmp_path / "log"
    separated = [program("unshare", "util-linux"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with machines(0) as (machine, _):
        run = ["ip", "netns", "exec", machine, *separated, "sh", "-c", CONTAINER, "sh", *command]
        with started(run, image.workdir, env, log) as outside:
            until(lambda: is_in(log, r"server process \d+ is ready", int(env["WEB_CONCURRENCY"])), outside)
            port = int(env["PORT"])
            assert ask(machine, port, "/") == [USER, 1, env["WEB_CONCURRENCY"]]
            # Its layer is the hub in /tmp.
            assert any(path.is_socket() for path in Path(f"/tmp/offload-{USER}").iterdir())
            orphan = ask(machine, port, "/orphan")
            until(lambda: not ask(machine, port, f"/there?{orphan}"))
            (inside,) = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
            os.kill(int(inside), signal.SIGTERM)
            assert outside.wait(DEADLINE) == 0
    assert "stopping: SIGTERM" in log.read_text()
    assert not re.search(r"Traceback|ERROR|WARNING", log.read_text()), log.read_text()


def test_the_processes_of_the_procfile_run_with_the_variables_of_its_platforms(project: Path, tmp_path: Path) -> None:
    lines = (CONF / "Procfile").read_text().splitlines()
    commands = {kind: shlex.split(line) for kind, line in (line.split(": ") for line in lines)}
    env = {"PORT": "5000", "WEB_CONCURRENCY": "1", "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")}
    web_log, worker_log = tmp_path / "web", tmp_path / "worker"
    with machines(0) as (machine, _):
        inside = ["ip", "netns", "exec", machine]
        with started([*inside, *commands["web"]], project, env, web_log) as web:
            until(lambda: is_in(web_log, r"server process \d+ is ready"), web)
            assert ask(machine, 5000, "/there?1") is True
            with started([*inside, *commands["worker"]], project, env, worker_log) as worker:
                until(lambda: is_in(worker_log, r"worker \d+ is ready"), worker)
                for process in (worker, web):
                    process.terminate()
                    assert process.wait(DEADLINE) == 0
