"""Real hub processes, and other processes, for the tests of the IPC layer."""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

from offload.layers.ipc import IPCLayer
from tests.redis_server import stand_still

PATIENCE = 10.0
ROOT = Path(__file__).parents[2]

SERVE = """
import logging, socket, sys
from offload.hub import server as hub
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
path, life, buffer_bytes, tick = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
life = socket.socket(fileno=life) if life >= 0 else None
sys.exit(hub.serve_alone(path, life, buffer_bytes=buffer_bytes, tick=tick))
"""


class HubProcess:
    """A hub in a process of its own, which logs to a pipe that tests wait on."""

    def __init__(self, path, *, life=False, buffer_bytes=32 * 1024 * 1024, tick=10.0):
        self.path = str(path)
        self.life = None
        theirs = None
        if life:
            self.life, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SERVE,
                self.path,
                str(theirs.fileno() if theirs else -1),
                str(buffer_bytes),
                str(tick),
            ],
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()] if theirs else [],
            cwd=ROOT,
        )
        if theirs:
            theirs.close()
        self._lines = b""
        self.log = []

    @contextlib.contextmanager
    def using(self, **settings):
        """A layer, which is closed afterwards."""
        layer = IPCLayer(self.path, **settings)
        try:
            yield layer
        finally:
            layer.close()

    def wait_for(self, text):
        """Wait until the hub has logged this, and return the line."""
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while True:
                for line in self.log:
                    if text in line:
                        return line
                remaining = deadline - time.monotonic()
                assert remaining > 0, f"the hub did not log {text!r} in time but: {self.log}"
                if selector.select(remaining):
                    data = os.read(self.process.stderr.fileno(), 65536)
                    assert data, f"the hub ended without logging {text!r} but: {self.log}"
                    *lines, self._lines = (self._lines + data).split(b"\n")
                    self.log += [line.decode() for line in lines]

    def started(self):
        self.wait_for("hub: serving")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)

    def freeze(self):
        stand_still(self.process.pid)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        """Returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def close(self):
        if self.process.poll() is None:
            self.kill()
        self.process.stderr.close()
        if self.life is not None:
            self.life.close()


class CountedByTheHub:
    """Goes before the conformance suite in a class's bases: what expired in a hub's queues, the hub has counted."""

    def expired(self, layer):
        return super().expired(layer) + layer.hub_statistics()["expired"]


def fork(function, *arguments):
    """Run a function in a forked child; returns the child's id. The child exits with 0 when the function returns
    True."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads: that is the test
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = 0 if function(*arguments) is True else 3
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
        traceback.print_exc()
    finally:
        os._exit(code)


def succeeded(*children):
    return not any([os.waitpid(pid, 0)[1] for pid in children])  # noqa: C419 - wait for all of them


def as_user(user, function):
    """Start a child of another user that runs a function; returns its id."""

    def change_and_run():
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        return function()

    return fork(change_and_run)


def run(*arguments, **settings):
    """Run Python to its end."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **settings
    )
