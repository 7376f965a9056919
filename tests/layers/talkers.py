"""Load for tests of faults: WebSocket clients that talk in one room without pause, and know what became of each word.

Each says a numbered word, waits until the server has told whether the group got it, and says the next; what it hears
meanwhile is kept with its time. So everything that was lost can be named.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.serving import DEADLINE, Server

APP = """
import json, os, time

from offload import Group, route
from offload.consumers.configuration import layer_for
from offload.exceptions import LayerUnavailable

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"talk"]

def ws_connect(message):
    Group("room").add(message.reply_channel)
    answer(message, process=os.getpid(), channel=message.reply_channel.name)

def ws_receive(message):
    if message["text"] == "statistics":
        answer(message, **layer_for().statistics())
        return
    start = time.monotonic()
    error = None
    try:
        Group("room").send({"text": message["text"]})
    except LayerUnavailable as unavailable:
        error = str(unavailable)
    answer(message, error=error, took=time.monotonic() - start)

def answer(message, **what):
    # Straight to the socket, which this process holds.
    message.reply_channel.send({"text": json.dumps(what)})

channel_routing = [route("websocket.connect", ws_connect), route("websocket.receive", ws_receive)]
"""

LAST = "this was all"
PAUSE = 0.004  # seconds between two words, so that the clients do not take the servers' time


class Talker:
    """One client.

    Attributes:
        process, channel: who holds its socket; its reply channel.
        said: the words that the group got, with the time at which each was on its way.
        failed: the words that raised, with the time that took and what was raised.
        heard: the words that came, with the time.
        twice: words that came again.
        longest: seconds that the longest send took, as the consumer saw it.
        closed: how the connection ended before it was told to.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.said: dict[str, float] = {}
        self.failed: dict[str, tuple[float, str]] = {}
        self.heard: dict[str, float] = {}
        self.twice: list[str] = []
        self.longest = 0.0
        self.closed: ConnectionClosed | None = None
        self._end = threading.Event()
        self._quiet = threading.Event()
        self._url = server.url("/", "ws")
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._connection: ClientConnection | None = None
        self._thread = threading.Thread(target=self._run, name=f"talker-{name}")
        self.process = 0
        self.channel = ""
        self.counts: dict[str, int] = {}
        self._thread.start()
        assert self._ready.wait(DEADLINE), f"talker {name} is not connected"
        self.check()

    def hush(self) -> None:
        """Say no more; returns when what was said last has been answered."""
        self._end.set()
        assert self._quiet.wait(2 * DEADLINE), f"talker {self.name} goes on"

    def say_last(self) -> None:
        """For all: when this is heard, nothing that was said before is on its way any more."""
        self._connection.send(LAST)

    def leave(self) -> None:
        """After the last word has been heard; raises what went wrong."""
        self._thread.join(2 * DEADLINE)
        assert not self._thread.is_alive(), f"talker {self.name} does not end"
        self.check()

    def abort(self) -> None:
        """End at once; nothing when it has ended."""
        self._end.set()
        if self._thread.is_alive() and self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(2 * DEADLINE)

    def check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"talker {self.name} failed") from self._error

    def _run(self) -> None:
        try:
            # What it is sent is read at once, however much: a reader that lags is another test's matter.
            with connect(self._url, max_queue=None, ping_interval=None, compression=None) as self._connection:
                hello = self._answer()
                self.process, self.channel = hello["process"], hello["channel"]
                self._ready.set()
                self._talk()
                self._quiet.set()
                while LAST not in self.heard:
                    self._read()
                self._connection.send("statistics")
                while "lost" not in self.counts:
                    self.counts = self._answer()
        except ConnectionClosed as closed:
            self.closed = closed
        except BaseException as error:  # noqa: BLE001 - raised by whoever stops it
            self._error = error
        finally:
            self._ready.set()
            self._quiet.set()

    def _talk(self) -> None:
        number = 0
        while not self._end.wait(PAUSE):
            number += 1
            word = f"{self.name}-{number}"
            start = time.monotonic()
            self._connection.send(word)
            answer = self._answer()
            self.longest = max(self.longest, answer["took"])
            if answer["error"] is None:
                self.said[word] = start
            else:
                self.failed[word] = (answer["took"], answer["error"])

    def _answer(self) -> dict:
        """The next answer; keeps what is heard before it."""
        while (answer := self._read()) is None:
            pass
        return answer

    def _read(self) -> dict | None:
        text = self._connection.recv(DEADLINE)
        if text.startswith("{"):
            return json.loads(text)
        if text in self.heard:
            self.twice.append(text)
        self.heard[text] = time.monotonic()
        return None


def heard_since(listener: Talker, speakers: Iterable[Talker], moment: float) -> float | None:
    """When a listener first heard, after a moment, what one of the speakers began to say after it."""
    words = {word for speaker in speakers for word, began in list(speaker.said.items()) if began >= moment}
    heard = listener.heard.copy()
    return min((heard[word] for word in words if word in heard), default=None)


class Crowd:
    """Talkers on all processes of the servers, some on each.

    Attributes:
        complete: when all had come.
    """

    def __init__(self, *servers: Server, each: int = 3) -> None:
        self.talkers: list[Talker] = []
        self.servers = servers
        processes = {pid for server in servers for pid in server.pids}
        try:
            for number in range(60):
                by_process = self.by_process()
                if processes == set(by_process) and all(len(some) >= each for some in by_process.values()):
                    self.complete = time.monotonic()
                    return
                self.talkers.append(Talker(servers[number % len(servers)], f"t{number}"))
            raise AssertionError(f"connections do not spread over the processes: {by_process}")
        except BaseException:
            self.scatter()
            raise

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.scatter()

    def scatter(self) -> None:
        """End it, wherever it is."""
        for talker in self.talkers:
            talker.abort()

    def by_process(self) -> dict[int, list[Talker]]:
        found: dict[int, list[Talker]] = {}
        for talker in self.talkers:
            found.setdefault(talker.process, []).append(talker)
        return found

    def finish(self) -> None:
        """End the talk when all that was said has been heard."""
        for talker in self.talkers:
            talker.hush()
        next(talker for talker in self.talkers if talker.closed is None).say_last()
        for talker in self.talkers:
            talker.leave()

    def wait_until(self, condition: Callable[[], bool], what: str, patience: float = DEADLINE) -> None:
        deadline = time.monotonic() + patience
        pause = threading.Event()
        while not condition():
            for talker in self.talkers:
                talker.check()
            assert time.monotonic() < deadline, f"waited {patience} s for {what}"
            pause.wait(0.01)

    def wait_until_all_hear_all(self, moment: float, patience: float = DEADLINE) -> float:
        """Wait until every talker has heard somebody of every process say what was begun after the moment.

        Returns:
            When the last of them did for the first time.
        """
        groups = [some for some in self.by_process().values() if all(talker.closed is None for talker in some)]
        latest: list[float] = []

        def all_have() -> bool:
            latest.clear()
            for listener in (talker for some in groups for talker in some):
                for speakers in groups:
                    first = heard_since(listener, speakers, moment)
                    if first is None:
                        return False
                    latest.append(first)
            return True

        self.wait_until(all_have, "everybody to hear everybody", patience)
        return max(latest)

    def missed(self) -> dict[str, float]:
        """Words that the group got after all had come, and that somebody who is still there did not hear; with the time
        at which they were begun."""
        alive = [talker for talker in self.talkers if talker.closed is None]
        return {
            word: began
            for speaker in self.talkers
            for word, began in speaker.said.items()
            if began >= self.complete and not all(word in listener.heard for listener in alive)
        }
