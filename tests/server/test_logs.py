"""SIGUSR1: logs that were moved away are begun anew in every process, and no line is lost."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.redis_server import until
from tests.serving import DEADLINE, ROOT, Server, serving

MIRROR = "tests.http.apps.mirror"
REQUEST = b"GET /size/0?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SNIPPET = ROOT / "conf" / "logrotate" / "offload"


class Logs:
    """The logs of one server, and a visitor who asks it again and again, each time for another number."""

    def __init__(self, directory: Path) -> None:
        self.error, self.access = directory / "error.log", directory / "access.log"
        self.pid = directory / "offload.pid"
        self.options = [
            *("--error-logfile", str(self.error)),
            *("--access-logfile", str(self.access)),
            *("--access-logformat", "%(p)s %(r)s"),
            *("--pid", str(self.pid)),
        ]
        self.asked = 0

    @property
    def files(self) -> tuple[Path, Path]:
        return self.error, self.access

    @property
    def served(self) -> set[int]:
        """Server processes, as the logs that have not been moved tell."""
        try:
            text = self.error.read_text()
        except FileNotFoundError:
            # Moved away in this moment, and not begun anew yet.
            return set()
        return {int(pid) for pid in re.findall(r"server process (\d+) is ready", text)}

    def visit(self, server: Server) -> None:
        assert server.ask(REQUEST % self.asked).startswith(b"HTTP/1.1 200 ")
        self.asked += 1

    def visit_until(self, server: Server, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, _lines(*self.files)
            self.visit(server)

    def visitors(self) -> set[int]:
        """Processes that have written to the access log as it is."""
        return {int(line[1:].split(">")[0]) for line in _lines(self.access)}


def _moved(file: Path) -> Path:
    return file.with_name(f"{file.name}.1")


def _text(file: Path) -> str:
    return gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()


def _lines(*files: Path) -> list[str]:
    return [line for file in files if file.exists() for line in _text(file).splitlines()]


def _numbers(*files: Path) -> list[int]:
    return sorted(int(line.split("?")[1].split()[0]) for line in _lines(*files))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _opened(pid: int) -> set[str]:
    files = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.add(os.readlink(link))
        except FileNotFoundError:
            continue  # Closed meanwhile.
    return files


@pytest.mark.parametrize("directly", [False, True], ids=["to the supervisor", "to all processes"])
def test_moved_logs_are_begun_anew_by_all_processes(tmp_path: Path, directly: bool) -> None:
    logs = Logs(tmp_path)
    with serving(MIRROR, *logs.options, workers=2) as server:
        supervisor, served = server.process.pid, logs.served
        assert len(served) == 2
        logs.visit(server)
        for file in logs.files:
            file.rename(_moved(file))
        # What comes before the signal is written to the files that were moved.
        logs.visit(server)
        if directly:
            # As `systemctl kill` does.
            for pid in (*_children(supervisor), supervisor):
                os.kill(pid, signal.SIGUSR1)
        else:
            server.signal(signal.SIGUSR1)
        logs.visit_until(server, lambda: logs.visitors() == served)
        logs.visit_until(server, lambda: "reopening the logs: SIGUSR1" in "".join(_lines(logs.error)))
        for pid in (supervisor, *served):
            assert not _opened(pid) & {str(_moved(file)) for file in logs.files}
        assert server.stop() == 0
    assert _numbers(_moved(logs.access), logs.access) == list(range(logs.asked))
    assert len(_numbers(_moved(logs.access))) >= 2
    # Whoever had last words, the hub among them, wrote them to the new file.
    assert [line.rpartition("] ")[2] for line in _lines(logs.error)][-2:] == ["hub: ended", "stopped"]
    assert "ended" not in _moved(logs.error).read_text()


def test_process_that_boots_meanwhile_begins_its_logs_anew_too(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    (tmp_path / "mover.py").write_text(
        "import os, signal\n"
        "from tests.http.apps.mirror import application, channel_routing\n"
        "if os.path.exists('move'):\n"
        "    os.remove('move')\n"
        "    for name in ('error.log', 'access.log'):\n"
        "        os.rename(name, name + '.1')\n"
        # The supervisor passes it on to whoever is in the midst of this.
        "    os.kill(os.getppid(), signal.SIGUSR1)\n"
    )
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with serving("mover", *logs.options, "--chdir", str(tmp_path), env=env) as server:
        (old,) = logs.served
        logs.visit(server)
        (tmp_path / "move").write_text("")
        server.signal(signal.SIGHUP)
        logs.visit_until(server, lambda: len(logs.served - {old}) == 1)
        (new,) = logs.served
        logs.visit_until(server, lambda: new in logs.visitors())
        assert not _opened(new) & {str(_moved(file)) for file in logs.files}
        assert server.stop() == 0
    assert _numbers(_moved(logs.access), logs.access) == list(range(logs.asked))


def test_log_that_cannot_be_begun_anew_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    logs = Logs(directory)
    with serving(MIRROR, *logs.options) as server:
        logs.visit(server)
        directory.rename(tmp_path / "away")
        server.signal(signal.SIGUSR1)
        away = tmp_path / "away" / "error.log"
        logs.visit_until(server, lambda: "the access log" in away.read_text())
        logs.visit(server)
        assert server.stop() == 0
    said = [line.rpartition("[ERROR] ")[2] for line in _lines(away) if "[ERROR]" in line]
    # The supervisor, the server process, and its access log; the hub at its last words.
    assert said.count(f"cannot write the log {str(logs.error)!r}: No such file or directory; the old one goes on") == 3
    access = f"cannot write the access log {str(logs.access)!r}: No such file or directory; the old one goes on"
    assert said.count(access) == 1
    assert _lines(away)[-1].endswith("] stopped")
    assert _numbers(tmp_path / "away" / "access.log") == list(range(logs.asked))


def test_log_on_a_full_disk_is_begun_anew(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    for file in logs.files:
        file.symlink_to("/dev/full")
    with serving(MIRROR, *logs.options) as server:
        logs.visit(server)
        for file in logs.files:
            file.unlink()
        server.signal(signal.SIGUSR1)
        logs.visit_until(server, lambda: bool(_lines(logs.access)))
        logs.visit_until(server, lambda: any("reopening the logs: SIGUSR1" in line for line in _lines(logs.error)))
        assert server.stop() == 0
    assert _lines(logs.error)[-1].endswith("] stopped")
    # The lines that the disk did not take are lost, those since are not.
    assert _numbers(logs.access)[-1] == logs.asked - 1


def test_worker_begins_its_log_anew(tmp_path: Path) -> None:
    error = tmp_path / "error.log"
    (tmp_path / "tasks.py").write_text("from offload import route\nchannel_routing = [route('jobs', print)]\n")
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with serving("worker", "tasks", "--error-logfile", str(error), "--layer", "ipc:", env=env) as server:
        found = re.search(r"worker (\d+) is ready", error.read_text())
        assert found is not None
        error.rename(_moved(error))
        server.signal(signal.SIGUSR1)
        until(lambda: str(_moved(error)) not in _opened(int(found[1])), "the worker has left its old log")
        assert server.stop() == 0
    assert _lines(error)[-1].endswith("] stopped")


@pytest.mark.skipif(
    shutil.which("logrotate") is None and not os.environ.get("CI"), reason="needs the logrotate program"
)
def test_logrotate_turns_the_logs_by_the_file_in_conf(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    text = SNIPPET.read_text()
    for path, mine in (("/var/log/offload/", f"{tmp_path}/"), ("/run/offload/offload.pid", str(logs.pid))):
        assert path in text
        text = text.replace(path, mine)
    # The file's own way to make the new ones needs the user that it names.
    text = re.sub(r"(?m)^\s*(create|su) .*\n", "", text)
    tmp_path.chmod(0o755)
    snippet = tmp_path / "snippet"
    snippet.write_text(text)
    snippet.chmod(0o644)
    with serving(MIRROR, *logs.options, workers=2) as server:
        served = logs.served
        for turn in range(2):
            logs.visit_until(server, lambda: logs.visitors() == served)
            done = subprocess.run(
                ["logrotate", "--force", "--state", str(tmp_path / "state"), str(snippet)],
                capture_output=True, text=True, timeout=DEADLINE, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, ""), turn
        logs.visit_until(server, lambda: logs.visitors() == served)
        assert server.stop() == 0
    assert _numbers(logs.access, *tmp_path.glob("access.log.*")) == list(range(logs.asked))
