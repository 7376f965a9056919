"""Deployments that switch a symbolic link to the next release and reload, as many tools do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
from pathlib import Path

import pytest
import trustme
from websockets.sync.client import connect

from tests.server.children import wait_gone
from tests.serving import DEADLINE, ROOT, Server, serving

APP = """
import os
import sys
from pathlib import Path
from offload import Channel, Group, route

RELEASE = Path(__file__).parent.name

def application(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    return [f"{RELEASE} in {Path.cwd().name}".encode()]

def opened(message):
    Group("clients").add(message.reply_channel)
    Channel("tasks").send({"server": RELEASE})

def task(message):
    Group("clients").send({"text": f"server {message['server']}, worker {RELEASE}"})

channel_routing = [route("websocket.connect", opened), route("tasks", task)]
"""


class Releases:
    """Two releases, and the link to the one that counts."""

    def __init__(self, directory: Path) -> None:
        self.current = directory / "current"
        self.r1, self.r2 = directory / "r1", directory / "r2"
        for release in (self.r1, self.r2):
            release.mkdir()
            (release / "shop.py").write_text(APP)
        self.current.symlink_to("r1")

    def switch(self, release: Path) -> None:
        new = self.current.with_name("new")
        new.symlink_to(release.name)
        new.replace(self.current)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


def ask(server: Server) -> str:
    return server.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").partition(b"\r\n\r\n")[2].decode()


def reload(server: Server) -> None:
    """Ask for it, and wait until the replacement has taken over."""
    replaced = server.pids[-1]
    server.signal(signal.SIGHUP)
    server.wait_for(rf"{replaced} was replaced and ended with status 0")


@pytest.mark.parametrize(
    ("how", "first", "last"),
    [
        ("--chdir", "r1 in r1", "r2 in r2"),
        ("--chdir relative", "r1 in r1", "r2 in r2"),
        ("--pythonpath relative", "lib in r1", "lib in r2"),
        ("$PWD", "r1 in r1", "r2 in r2"),
        ("$PWD of another directory", "r1 in r1", "r1 in r1"),
    ],
)
def test_a_reload_follows_the_link_and_nothing_else_does(releases: Releases, how: str, first: str, last: str) -> None:
    current = str(releases.current)
    arguments, cwd = {
        "--chdir": (["--chdir", current], "/"),
        "--chdir relative": (["--chdir", "current"], str(releases.current.parent)),
        "--pythonpath relative": (["--pythonpath", "lib", "--chdir", current], "/"),
    }.get(how, ([], current))
    environ = {"PYTHONPATH": str(ROOT), "PWD": current if how == "$PWD" else "/"}
    if how == "--pythonpath relative":
        for release in (releases.r1, releases.r2):
            (release / "lib").mkdir()
            shutil.move(release / "shop.py", release / "lib")
    with serving("shop", "--layer", "memory://", *arguments, cwd=cwd, env=environ) as server:
        assert ask(server) == first
        releases.switch(releases.r2)
        # Not before the reload: a process that is started again has the code of the others.
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for("is ready", times=2)
        assert ask(server) == first
        reload(server)
        assert ask(server) == last
        releases.switch(releases.r1)
        reload(server)
        assert ask(server) == first


def test_processes_and_workers_meet_at_one_hub_whichever_release_they_run(releases: Releases, tmp_path: Path) -> None:
    arguments = {"cwd": "/", "env": {"OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")}}
    with (
        serving("shop", "--chdir", str(releases.current), **arguments) as server,
        serving("worker", "shop", "--chdir", str(releases.current), "--only-channels", "tasks", **arguments) as worker,
    ):

        def task() -> object:
            with connect(server.url("/", "ws")) as client:
                return client.recv(DEADLINE)

        assert task() == "server r1, worker r1"
        releases.switch(releases.r2)
        reload(server)
        assert task() == "server r2, worker r1"
        reload(worker)
        assert task() == "server r2, worker r2"
        assert len(re.findall("hub: serving", server.log + worker.log)) == 1


def test_relative_names_of_certificates_and_of_the_pid_file_follow(releases: Releases) -> None:
    for release in (releases.r1, releases.r2):
        certificate = trustme.CA().issue_cert(f"{release.name}.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(release / "site.pem"))
    arguments = ("--chdir", str(releases.current), "--certfile", "site.pem", "--pid", "shop.pid")
    with serving("shop", "--layer", "memory://", *arguments, cwd="/") as server:

        def certificate() -> str:
            return ssl.get_server_certificate((server.host, server.port))

        def pid_of(release: Path) -> str:
            return (release / "shop.pid").read_text()

        assert certificate() in (releases.r1 / "site.pem").read_text()
        assert pid_of(releases.r1) == f"{server.process.pid}\n"
        releases.switch(releases.r2)
        reload(server)
        assert certificate() in (releases.r2 / "site.pem").read_text()
        assert pid_of(releases.r2) == f"{server.process.pid}\n"
        assert not (releases.r1 / "shop.pid").exists()
        # One that somebody took away comes back with a reload.
        (releases.r2 / "shop.pid").unlink()
        reload(server)
        assert pid_of(releases.r2) == f"{server.process.pid}\n"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not (releases.r2 / "shop.pid").exists()


def test_a_link_that_leads_nowhere_leaves_the_old_processes_serving(releases: Releases) -> None:
    with serving("shop", "--layer", "memory://", "--chdir", str(releases.current), cwd="/") as server:
        releases.current.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for(
            "not reloaded, the old server processes go on: "
            f"cannot change to the directory '{releases.current}': No such file or directory"
        )
        assert ask(server) == "r1 in r1"
        os.kill(server.pids[0], signal.SIGKILL)
        wait_gone(server.pids[0])
        server.wait_for("is ready", times=2)
        assert ask(server) == "r1 in r1"


def test_a_release_that_does_not_boot_is_left_again(releases: Releases) -> None:
    (releases.r2 / "shop.py").write_text("raise RuntimeError('not yet')")
    arguments = ("--chdir", str(releases.current), "--pid", "shop.pid")
    with serving("shop", "--layer", "memory://", *arguments, cwd="/", workers=2) as server:
        releases.switch(releases.r2)
        for attempt in (1, 2):
            server.signal(signal.SIGHUP)
            server.wait_for("not reloaded, the old server processes go on: .*not yet", times=attempt)
        for pid in server.pids:
            os.kill(pid, signal.SIGKILL)
        server.wait_for("is ready", times=4)
        assert ask(server) == "r1 in r1"
        assert (releases.r1 / "shop.pid").read_text() == f"{server.process.pid}\n"
        shutil.copy(releases.r1 / "shop.py", releases.r2)
        server.signal(signal.SIGHUP)
        server.wait_for("was replaced and ended with status 0", times=2)
        assert ask(server) == "r2 in r2"
        assert (releases.r2 / "shop.pid").read_text() == f"{server.process.pid}\n"


def test_a_worker_tells_of_a_release_that_does_not_boot(releases: Releases) -> None:
    (releases.r2 / "shop.py").write_text("raise RuntimeError('not yet')")
    with serving("worker", "shop", "--chdir", str(releases.current), cwd="/") as worker:
        releases.switch(releases.r2)
        worker.signal(signal.SIGHUP)
        worker.wait_for("not reloaded, the old workers go on: .*not yet")


def test_a_directory_that_is_taken_away_from_a_server_ends_nothing(releases: Releases, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    environ = {"PYTHONPATH": f"{releases.r1}:{ROOT}"}
    app = APP.replace("{Path.cwd().name}", "nothing")
    (releases.r1 / "shop.py").write_text(app)
    with serving("shop", "--layer", "memory://", "--pid", "shop.pid", cwd=place, env=environ) as server:
        shutil.rmtree(place)
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for("is ready", times=2)
        server.signal(signal.SIGHUP)
        server.wait_for(f"not reloaded, .*: cannot change to the directory '{place}': No such file or directory")
        assert ask(server) == "r1 in nothing"
        # As good as new.
        place.mkdir()
        reload(server)
        assert (place / "shop.pid").read_text() == f"{server.process.pid}\n"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert list(place.iterdir()) == []
