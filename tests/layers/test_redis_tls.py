"""``rediss://`` against a server with a certificate of its own."""

import os
import shutil
import subprocess

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.urls import layer_from_url
from tests.layers.redis_receiver import joined
from tests.redis_server import free_port, running_redis

REMEDY = "needs openssl; run: apt-get install openssl"


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """The URL of a server that speaks TLS, and its certificate's file."""
    directory = tmp_path_factory.mktemp("redis-tls")
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    port = free_port()
    options = {
        "tls_port": str(port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "tls_auth_clients": "no",
    }
    with running_redis(directory, **options):
        yield f"rediss://localhost:{port}/0", certificate


def test_layer_over_tls(tls):
    url, certificate = tls
    layer = layer_from_url(f"{url}?ssl_ca_certs={certificate}")
    receiver = joined(layer, "news")
    layer.group_send("news", {"text": "x" * 100_000})
    assert receiver.next() == {"text": "x" * 100_000}
    layer.send("queue", {"n": 1})
    assert layer.receive(["queue"], 5) == ("queue", {"n": 1})
    layer.close()


def test_certificate_of_an_unknown_authority_is_refused(tls):
    url, _ = tls
    layer = layer_from_url(url)
    with pytest.raises(LayerUnavailable) as caught:
        layer.check()
    assert str(caught.value) == (
        f"layer 'redis' cannot reach {url}: its certificate was not accepted (self-signed certificate);"
        " start Redis there, or choose another layer"
    )
    layer.close()
