"""Agents that Python loads before any other code, and early imports: processes of the server work as without them."""

from __future__ import annotations

import gzip
import importlib.util
import json
import queue
import ssl
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.serving import DEADLINE, ROOT, Server

APP = """
import os, sys, time
import urllib3

pool = urllib3.PoolManager(ca_certs=os.environ["CA"])

def application(environ, start_response):
    # Side by side, so that a call that is not cooperative would take its time one after the other.
    body = pool.request("GET", os.environ["ELSEWHERE"]).data + b" " + str(AGENT in sys.modules).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

EARLY = "import ssl, threading, urllib3, urllib3.connection\nthreading.Thread(target=print).start()\n"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that name a server with TLS, and its authority."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"safe")

        def log_message(self, *_: object) -> None:
            pass

    authority = trustme.CA()
    place = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(place))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {"CA": str(place), "ELSEWHERE": f"https://localhost:{server.server_port}/"}
        finally:
            server.shutdown()
            thread.join()


def get(server: Server) -> str:
    with urllib.request.urlopen(server.url("/"), timeout=DEADLINE) as answer:
        return str(answer.read().decode())


def serve(project: Path, elsewhere: dict[str, str], agent: str, path: str, **more: str) -> str:
    (project / "shop.py").write_text(f"AGENT = {agent!r}\n{APP}")
    env = {"PYTHONPATH": f"{path}:{project}:{ROOT}", **elsewhere, **more}
    server = Server("shop", "--layer", "memory://", cwd=project, env=env)
    try:
        return get(server)
    finally:
        assert server.stop() == 0, server.log
        assert "RecursionError" not in server.log
        assert "MonkeyPatchWarning" not in server.log


def test_an_early_import_of_ssl_by_a_sitecustomize_does_no_harm(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(EARLY)
    assert serve(tmp_path, elsewhere, "sitecustomize", str(tmp_path / "early")) == "safe True"


def test_an_early_import_by_a_configuration_file_does_no_harm(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(EARLY)
    assert serve(tmp_path, elsewhere, "urllib3", "") == "safe True"


@pytest.mark.parametrize(
    ("package", "place", "variables"),
    [
        (
            "opentelemetry",
            "opentelemetry/instrumentation/auto_instrumentation",
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
        ),
        ("ddtrace", "ddtrace/bootstrap", {"DD_TRACE_ENABLED": "true", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}),
        (
            "newrelic",
            "newrelic/bootstrap",
            {
                "NEW_RELIC_LICENSE_KEY": "0" * 40,
                "NEW_RELIC_DEVELOPER_MODE": "true",
                "NEW_RELIC_ADMIN_COMMAND": "[]",
                "NEW_RELIC_PYTHON_PREFIX": sys.prefix,
                "NEW_RELIC_PYTHON_VERSION": ".".join(map(str, sys.version_info[:2])),
            },
        ),
    ],
)
def test_outgoing_https_works_under_agents(
    tmp_path: Path, elsewhere: dict[str, str], package: str, place: str, variables: dict[str, str]
) -> None:
    pytest.importorskip(package)
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    path = str(Path(next(iter(spec.submodule_search_locations))).parent / place)
    assert serve(tmp_path, elsewhere, package, path, **variables) == "safe True"


SENTRY_APP = """
import os
import sentry_sdk
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

sentry_sdk.init(dsn=os.environ["DSN"], traces_sample_rate=1.0)

def failing(environ, start_response):
    sentry_sdk.set_tag("process", os.getpid())
    raise ValueError("of the shop")

application = SentryWsgiMiddleware(failing)
"""


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=" ".join)
def test_sentry_gets_errors_of_each_process(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    pytest.importorskip("sentry_sdk")
    found: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            for line in body.splitlines():
                item = json.loads(line)
                if "exception" in item:
                    found.put(item)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "shop.py").write_text(SENTRY_APP)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as sentry:
        thread = threading.Thread(target=sentry.serve_forever)
        thread.start()
        env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "DSN": f"http://key@127.0.0.1:{sentry.server_port}/1"}
        server = Server("shop", "--layer", "memory://", *arguments, workers=2, cwd=tmp_path, env=env)
        try:
            processes: set[int] = set()
            while processes != set(server.pids):
                assert b" 500 " in server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")[:20]
                event = found.get(timeout=DEADLINE)
                (exception,) = event["exception"]["values"]
                assert (exception["type"], exception["value"]) == ("ValueError", "of the shop")
                processes.add(int(event["tags"]["process"]))
        finally:
            assert server.stop() == 0, server.log
            sentry.shutdown()
            thread.join()
