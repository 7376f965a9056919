"""What operators know from gunicorn: its signals, its Unix sockets, its pid file, and a start that is interrupted."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.serving import DEADLINE, ROOT, Server, read_all, serving

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"up"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def running(project: Path, *arguments: str) -> AbstractContextManager[Server]:
    return serving("shop", "--layer", "memory://", *arguments, cwd=project, env={"PYTHONPATH": f"{project}:{ROOT}"})


def start(project: Path, *arguments: str) -> Server:
    return Server("shop", "--layer", "memory://", *arguments, cwd=project, env={"PYTHONPATH": f"{project}:{ROOT}"})


JOB = """
import fcntl, os, signal, subprocess, sys, termios

# A session with a terminal that stops jobs in the background when they write.
os.setsid()
master, terminal = os.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
attributes = termios.tcgetattr(terminal)
attributes[3] |= termios.TOSTOP
termios.tcsetattr(terminal, termios.TCSANOW, attributes)
job = subprocess.Popen(
    [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", "127.0.0.1:0"],
    stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=os.setpgrp,
)
signal.signal(signal.SIGALRM, lambda *_: job.kill())
signal.alarm(15)
_, status = os.waitpid(job.pid, os.WUNTRACED)
print("stopped by", signal.Signals(os.WSTOPSIG(status)).name, flush=True)
os.tcsetpgrp(terminal, job.pid)
os.killpg(job.pid, signal.SIGCONT)
said = b""
while b"is ready" not in said:
    said += os.read(master, 4096)
job.terminate()
print("then ended with", job.wait())
"""


STARTS_PROGRAMS = """
import os, signal, subprocess

def application(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    for number in (signal.SIGINT, signal.SIGHUP):
        # Meant for the whole group of a terminal.
        os.kill(os.getpid(), number)
        program = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        program.send_signal(number)
        try:
            yield f"{program.wait(5)} ".encode()
        finally:
            program.kill()
"""


def test_programs_that_the_application_starts_have_the_usual_signals(project: Path) -> None:
    (project / "shop.py").write_text(STARTS_PROGRAMS)
    with running(project) as server:
        answer = server.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n-2 -1 ")
        assert len(server.pids) == 1


def test_server_in_the_background_of_a_terminal_stops_when_it_writes_and_goes_on_in_the_foreground(
    project: Path,
) -> None:
    leader = subprocess.run(
        [sys.executable, "-c", JOB], cwd=project, env={**os.environ, "PYTHONPATH": f"{project}:{ROOT}"},
        stdout=subprocess.PIPE, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert leader.stdout == "stopped by SIGTTOU\nthen ended with 0\n"


def test_unix_socket_may_be_used_by_everybody_who_may_enter_its_directory(project: Path) -> None:
    path = project / "shop.sock"
    with serving("shop", "--layer", "memory://", "-b", f"unix:{path}", cwd=project, env={}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
        assert stat.S_IMODE((project / "shop.py").stat().st_mode) != 0o777


WRITES = """
import os, stat

def application(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    with open("upload", "w"):
        pass
    return [b"%o" % stat.S_IMODE(os.stat("upload").st_mode)]
"""


def test_umask_is_for_unix_sockets_and_leaves_files_of_the_application_alone(project: Path) -> None:
    (project / "shop.py").write_text(WRITES)
    path = project / "shop.sock"
    mask = os.umask(0o022)
    try:
        for options, mode in (((), 0o777), (("-m", "007"), 0o770)):
            with running(project, "-b", f"unix:{path}", "-b", "127.0.0.1:0", *options) as server:
                assert stat.S_IMODE(path.stat().st_mode) == mode
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    assert read_all(client).endswith(b"\r\n\r\n644"), server.log
    finally:
        os.umask(mask)


def test_unix_socket_of_a_server_that_is_stuck_is_in_use(project: Path) -> None:
    path = project / "shop.sock"
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as first:
        stuck.bind(str(path))
        stuck.listen(0)
        first.connect(str(path))
        with socket.socket(socket.AF_UNIX) as second:
            second.setblocking(False)
            # There is no more room.
            with pytest.raises(BlockingIOError):
                second.connect(str(path))
        with pytest.raises(AssertionError, match="the address is in use"):
            start(project, "-b", f"unix:{path}")
        assert path.is_socket()


def test_pid_file_of_a_running_server_is_refused_and_left_alone(project: Path) -> None:
    server = start(project, "--pid", "offload.pid")
    try:
        with pytest.raises(AssertionError) as failed:
            start(project, "--pid", "offload.pid")
        assert (
            f"offload: error: the pid file 'offload.pid' is that of process {server.process.pid}, which runs; "
            "end it, or name another file\n"
        ) in str(failed.value)
        assert int((project / "offload.pid").read_text()) == server.process.pid
    finally:
        server.stop()
    assert not (project / "offload.pid").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("link", "is a symbolic link; name the file itself"),
        ("other", "holds something else than a process id; name another"),
    ],
)
def test_pid_file_that_is_a_link_or_holds_something_else_is_refused_and_left_alone(
    project: Path, kind: str, words: str
) -> None:
    other = project / "other"
    other.write_text("my only copy\n")
    name = "other" if kind == "other" else "link"
    (project / "link").symlink_to(other)
    with pytest.raises(AssertionError, match=f"offload: error: the pid file '{name}' {words}\n"):
        start(project, "--pid", name)
    assert other.read_text() == "my only copy\n"
    assert sorted(path.name for path in project.iterdir() if path.name != "__pycache__") == ["link", "other", "shop.py"]


def test_pid_file_is_replaced_in_one_step(project: Path) -> None:
    (project / "offload.pid").write_text("12345\n")
    with open(project / "offload.pid") as old, running(project, "--pid", "offload.pid") as server:
        # Who has the old one open reads the old one to its end.
        assert old.read() == "12345\n"
        assert (project / "offload.pid").read_text() == f"{server.process.pid}\n"


def test_pid_file_that_a_killed_server_left_is_taken_over(project: Path) -> None:
    # Such a process runs, and is no server.
    (project / "offload.pid").write_text(f"{os.getpid()}\n")
    first = start(project, "--pid", "offload.pid")
    try:
        first.signal(signal.SIGKILL)
        first.process.wait(DEADLINE)
        second = start(project, "--pid", "offload.pid")
        try:
            assert int((project / "offload.pid").read_text()) == second.process.pid
        finally:
            second.stop()
    finally:
        first.stop()
    assert not (project / "offload.pid").exists()


def test_pid_file_may_be_a_device_or_a_pipe_which_two_servers_may_have(project: Path) -> None:
    os.mkfifo(project / "pids")
    reader = os.open(project / "pids", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for path in ("/dev/null", "pids"):
            with running(project, "--pid", path) as first, running(project, "--pid", path) as second:
                for server in (first, second):
                    server.signal(signal.SIGHUP)
                    server.wait_for("was replaced and ended with status 0")
                if path == "pids":
                    assert os.read(reader, 100) == f"{first.process.pid}\n{second.process.pid}\n".encode()
    finally:
        os.close(reader)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert (project / "pids").is_fifo()


def test_pid_file_that_cannot_be_written_is_told(project: Path) -> None:
    os.mkfifo(project / "unread")
    for path, why in (("unread", "No such device or address"), (".", "Is a directory"), ("none/pid", "No such file")):
        with pytest.raises(AssertionError, match=f"offload: error: cannot write the pid file '{path}': {why}"):
            start(project, "--pid", path)


def test_stop_while_the_server_binds_leaves_nothing_behind(project: Path) -> None:
    binds = [argument for number in range(150) for argument in ("-b", f"unix:{project}/{number}.sock")]
    process = subprocess.Popen(
        [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-p", "offload.pid", *binds],
        cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + DEADLINE
    while not (project / "0.sock").exists():
        assert time.monotonic() < deadline
        os.sched_yield()
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert [path.name for path in project.iterdir() if path.suffix in (".sock", ".pid")] == []
