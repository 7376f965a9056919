"""Large bodies both ways, in bounded memory.

``OFFLOAD_LARGE_BYTES=1073741824`` is the full size.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.client import Client
from tests.http.conftest import APPLICATION
from tests.serving import Server, serving

SIZE = int(os.environ.get("OFFLOAD_LARGE_BYTES", str(64 << 20)))
SPARE_BYTES = 12 << 20
"""What a server process may grow by meanwhile, whatever the size."""
_PIECE = bytes(range(256)) * 1024


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("big") / "file"
    with path.open("wb") as file:
        for _ in range(SIZE // len(_PIECE)):
            file.write(_PIECE)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def server(big: Path) -> Iterator[Server]:
    with serving(APPLICATION, env={"BIG_FILE": str(big)}) as server:
        with Client(server) as client:
            # Buffers and modules that come with the first of each.
            assert client.get("/sums", "POST", body=_PIECE).status == 200
            assert len(client.get("/bare/file/plain").body) == 1 << 20
        yield server


class _Peak:
    """The largest RSS of the server process since this began, as the kernel keeps it."""

    def __init__(self, server: Server) -> None:
        self._status = Path(f"/proc/{server.pids[-1]}/status")
        Path(f"/proc/{server.pids[-1]}/clear_refs").write_text("5")
        self._before = self._read()

    def _read(self) -> int:
        return int(self._status.read_text().split("VmHWM:")[1].split()[0]) * 1024

    @property
    def growth(self) -> int:
        return self._read() - self._before


def _expected() -> str:
    digest = hashlib.sha256()
    for _ in range(SIZE // len(_PIECE)):
        digest.update(_PIECE)
    return f"{SIZE // len(_PIECE) * len(_PIECE)} {digest.hexdigest()}"


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_upload_in_flat_memory(server: Server, framing: str) -> None:
    peak = _Peak(server)
    count = SIZE // len(_PIECE)
    with Client(server) as client:
        if framing == "length":
            client.send(f"POST /sums HTTP/1.1\r\nHost: a\r\nContent-Length: {count * len(_PIECE)}\r\n\r\n")
            for _ in range(count):
                client.send(_PIECE)
        else:
            client.send("POST /sums HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE)
            for _ in range(count):
                client.send(chunk)
            client.send(b"0\r\n\r\n")
        assert client.read().text == _expected()
    assert peak.growth < SPARE_BYTES, peak.growth


def _download(server: Server, target: str) -> tuple[int, str]:
    """Size and digest of an answer's content."""
    digest, size = hashlib.sha256(), 0
    with Client(server) as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.until(b"\r\n\r\n")
        data = client.buffered or client.sock.recv(1 << 20)
        while data:
            digest.update(data)
            size += len(data)
            data = client.sock.recv(1 << 20)
    return size, digest.hexdigest()


def test_file_download_in_flat_memory(server: Server) -> None:
    peak = _Peak(server)
    size, digest = _download(server, "/bare/big-file")
    assert f"{size} {digest}" == _expected()
    assert peak.growth < SPARE_BYTES, peak.growth


def test_others_are_served_during_a_download(server: Server) -> None:
    done = threading.Event()
    got: list[tuple[int, str]] = []

    def run() -> None:
        got.append(_download(server, "/bare/big-file"))
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    with Client(server) as client:
        served = 0
        while not done.is_set():
            assert client.get("/hello").status == 200
            served += 1
    thread.join()
    assert got[0][0] == SIZE // len(_PIECE) * len(_PIECE)
    assert served > 0


def test_generated_answer_in_flat_memory(server: Server) -> None:
    peak = _Peak(server)
    with Client(server) as client:
        client.send("GET /drip?large HTTP/1.1\r\nHost: a\r\n\r\n")
        got = 0
        while got < SIZE:
            got += len(client.sock.recv(1 << 20))
    server.wait_for("app: closed large")
    assert peak.growth < SPARE_BYTES, peak.growth
