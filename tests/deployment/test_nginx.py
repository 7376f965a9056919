"""The files of ``conf/nginx`` in a real nginx: in front of offload alone, and of gunicorn and offload side by side."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.deployment.programs import Nginx, fetch, gunicorn, shipped, until
from tests.redis_server import free_port
from tests.serving import DEADLINE, ROOT, Server, serving

LARGE = 20 << 20


class Site:
    """What is served, and where."""

    def __init__(
        self, nginx: Nginx, text: str, port: int, offload: Server, gunicorn: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.nginx, self.text, self.port, self.offload, self.gunicorn = nginx, text, port, offload, gunicorn
        self.host = f"127.0.0.1:{port}"

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://{self.host}{path}"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    path, port = tmp_path / "offload.sock", free_port()
    text = shipped(
        "nginx/offload.conf",
        {"unix:/run/offload.sock": f"unix:{path}", "listen 80": f"listen 127.0.0.1:{port}"},
    )
    nginx = Nginx(text, tmp_path)
    bind = ("--bind", f"unix:{path}", "--keep-alive", "75")
    with serving("tests.deployment.site", *bind) as server, nginx.running(port):
        yield Site(nginx, text, port, server)


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Site]:
    path, other, port = tmp_path / "offload.sock", tmp_path / "gunicorn.sock", free_port()
    text = shipped(
        "nginx/gunicorn-and-offload.conf",
        {
            "unix:/run/offload.sock": f"unix:{path}",
            "unix:/run/gunicorn.sock": f"unix:{other}",
            "listen 80": f"listen 127.0.0.1:{port}",
        },
    )
    nginx = Nginx(text, tmp_path)
    with (
        serving("tests.deployment.site", "--bind", f"unix:{path}") as server,
        gunicorn("tests.deployment.under_gunicorn", other, ROOT, server.environ) as process,
        nginx.running(port),
    ):
        yield Site(nginx, text, port, server, process)


@pytest.fixture(params=["alone", "beside"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


def test_the_client_and_its_host_reach_the_application(site: Site) -> None:
    body, headers = fetch(site.url("/"))
    assert json.loads(body) == ["127.0.0.1", site.host, "http"]
    assert headers["X-Server"].split("/")[0] == ("gunicorn" if site.gunicorn else "offload")
    with connect(site.url("/ws/client/", "ws")) as socket:
        assert json.loads(socket.recv(DEADLINE)) == ["127.0.0.1", "ws"]


def test_a_page_on_a_port_of_its_own_may_open_a_websocket_and_others_may_not(site: Site) -> None:
    with connect(site.url("/ws/room/", "ws"), origin=f"http://{site.host}") as socket:  # type: ignore[arg-type]
        socket.send("hello")
        assert socket.recv(DEADLINE) == "hello"
    with pytest.raises(InvalidStatus) as refused:
        connect(site.url("/ws/room/", "ws"), origin="http://elsewhere.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_a_view_reaches_the_websockets(site: Site) -> None:
    with connect(site.url("/ws/room/", "ws")) as socket:
        fetch(site.url("/say?from-a-view"))
        assert socket.recv(DEADLINE) == "from-a-view"


def test_a_large_upload_arrives_whole(site: Site) -> None:
    assert json.loads(fetch(site.url("/upload"), bytes(LARGE))[0]) == LARGE


def test_a_chat_goes_on_while_nginx_reloads(site: Site) -> None:
    with connect(site.url("/ws/room/", "ws")) as socket:
        site.nginx.change(
            site.text.replace("location /static/", 'location = /new { return 200 "new"; } location /static/')
        )
        site.nginx.reload()
        until(lambda: fetch(site.url("/new"))[0] == b"new")
        socket.send("still here")
        assert socket.recv(DEADLINE) == "still here"


def test_a_chat_goes_on_while_gunicorn_reloads(beside: Site) -> None:
    assert beside.gunicorn is not None
    children = Path(f"/proc/{beside.gunicorn.pid}/task/{beside.gunicorn.pid}/children")
    before = set(children.read_text().split())
    with connect(beside.url("/ws/room/", "ws")) as socket:
        beside.gunicorn.send_signal(signal.SIGHUP)
        until(lambda: not before & set(children.read_text().split()))
        until(lambda: fetch(beside.url("/say?after"))[0] == b'"said"')
        assert socket.recv(DEADLINE) == "after"


def test_a_reload_of_offload_sends_clients_back_and_refuses_none(site: Site) -> None:
    with connect(site.url("/ws/room/", "ws")) as socket:
        site.offload.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        with connect(site.url("/ws/room/", "ws")) as again:
            again.send("back")
            assert again.recv(DEADLINE) == "back"
            assert fetch(site.url("/"))[0]


def test_nginx_ends_tls_and_the_application_knows(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "site.pem")
    path, plain, port = tmp_path / "offload.sock", free_port(), free_port()
    text = shipped(
        "nginx/offload-tls.conf",
        {
            "unix:/run/offload.sock": f"unix:{path}",
            "listen 80": f"listen 127.0.0.1:{plain}",
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/letsencrypt/live/example.com/fullchain.pem": str(tmp_path / "site.pem"),
            "/etc/letsencrypt/live/example.com/privkey.pem": str(tmp_path / "site.pem"),
        },
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        serving("tests.deployment.site", "--bind", f"unix:{path}", "--keep-alive", "75"),
        Nginx(text, tmp_path).running(plain),
        connect(f"wss://127.0.0.1:{port}/ws/client/", ssl=context, origin=f"https://127.0.0.1:{port}") as socket,  # type: ignore[arg-type]
    ):
        assert json.loads(socket.recv(DEADLINE)) == ["127.0.0.1", "wss"]
