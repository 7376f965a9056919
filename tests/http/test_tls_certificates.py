"""Certificates: of clients, by the name that is asked for, after a reload, and those that cannot be used."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from offload.exceptions import ConfigurationError
from offload.settings import TlsOptions
from offload.transport.tls import make_context
from tests.http.tls_client import MIRROR, Files, ask, body_of, environ_of, read_all, tls
from tests.serving import Server, serving


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


# Client certificates.


@pytest.mark.parametrize("required", [True, False])
def test_client_certificate_is_checked_and_told(files: Files, required: bool) -> None:
    arguments = ["--certfile", files.pair, "--ca-certs", files.ca, "--cert-reqs", "2" if required else "1"]
    known = files.authority.issue_cert("ann@example.org", common_name="Ann")
    stranger = trustme.CA().issue_cert("mallory@example.org")
    with serving(MIRROR, *arguments) as server:
        environ = environ_of(ask(server, files.client(known)))
        assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
        assert environ["SSL_CLIENT_S_DN_CN"] == "Ann"
        assert "commonName=Ann" in environ["SSL_CLIENT_S_DN"]
        assert environ["SSL_CLIENT_CERT"].startswith("-----BEGIN CERTIFICATE-----")
        assert int(environ["SSL_CLIENT_M_SERIAL"], 16) > 0
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca"):
            ask(server, files.client(stranger))
        if required:
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
                ask(server, files.client())
            server.wait_for("the TLS handshake with .* failed: PEER_DID_NOT_RETURN_A_CERTIFICATE")
        else:
            assert "SSL_CLIENT_VERIFY" not in environ_of(ask(server, files.client()))


# Certificates.


def served_names(server: Server, context: ssl.SSLContext, name: str) -> set[str]:
    with tls(server, context, name) as sock:
        certificate = sock.getpeercert()
    assert certificate is not None
    return {str(value) for kind, value in certificate["subjectAltName"] if kind == "DNS"}


def test_certificate_is_chosen_by_the_name_that_the_client_asks_for(files: Files) -> None:
    certificates = [
        files.pair,
        files.issue("shop.example", "www.shop.example", file="shop"),
        files.issue("*.blog.example", file="blog"),
    ]
    arguments = [part for file in certificates for part in ("--certfile", file)]
    careless = files.client()
    careless.check_hostname = False
    with serving(MIRROR, *arguments) as server:
        assert served_names(server, files.client(), "www.shop.example") == {"shop.example", "www.shop.example"}
        assert served_names(server, files.client(), "SHOP.example") == {"shop.example", "www.shop.example"}
        assert served_names(server, files.client(), "ann.blog.example") == {"*.blog.example"}
        assert served_names(server, files.client(), "localhost") == {"localhost"}
        assert served_names(server, careless, "other.example") == {"localhost"}
        assert served_names(server, careless, "a.b.blog.example") == {"localhost"}


def test_sighup_reloads_certificates_for_new_connections(tmp_path: Path) -> None:
    files = Files(tmp_path)
    # On a busy machine new processes take longer than the rest of a body may.
    arguments = ("--layer", "memory://", "--certfile", files.pair, "--body-min-rate", "0")
    with serving(MIRROR, *arguments, workers=2) as server:
        with tls(server, files.client()) as sock:
            # The request is on its way while the process that has it is replaced.
            sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\no")
            files.issue("localhost", "reloaded.example")
            server.signal(signal.SIGHUP)
            server.wait_for(r"server process \d+ is ready", times=4)
            sock.sendall(b"k")
            assert body_of(read_all(sock)) == b"ok"
        server.wait_for("was replaced and ended with status 0", times=2)
        for _ in range(4):
            assert served_names(server, files.client(), "reloaded.example") == {"localhost", "reloaded.example"}
        Path(files.pair).write_text("nonsense")
        server.signal(signal.SIGHUP)
        server.wait_for(r"not reloaded, the old .* go on: \d+ cannot use '.*server.pem' for TLS")
        assert served_names(server, files.client(), "reloaded.example") == {"localhost", "reloaded.example"}


def test_wrong_files_are_one_clear_sentence(files: Files, tmp_path: Path) -> None:
    other = trustme.CA().issue_cert("other")
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    (tmp_path / "empty").write_text("")
    missing, empty, key = (str(tmp_path / name) for name in ("none.pem", "empty", "other.key"))

    def why(certfiles: list[str], keyfiles: list[str], *more: Any) -> str:
        with pytest.raises(ConfigurationError) as caught:
            make_context(TlsOptions(tuple(certfiles), tuple(keyfiles), *more))
        return str(caught.value)

    assert why([missing], []) == f"cannot read {missing!r} for TLS: No such file or directory"
    assert why([empty], []).startswith(f"cannot use {empty!r} for TLS: ")
    assert why([files.pair], [key]).endswith("the key does not belong to the certificate")
    assert why([files.pair], [], None, 2).endswith("give --ca-certs")
    assert why([files.pair], [], empty, 2).startswith(f"cannot use {empty!r} for TLS: ")
    assert why([files.pair], [], None, 0, "NONSENSE") == "no cipher matches 'NONSENSE' (--ciphers)"
    assert why([files.pair], [key, key]) == "there are 1 certificates (--certfile) and 2 keys (--keyfile)"


def test_encrypted_key_is_refused_without_asking_for_its_password(files: Files, tmp_path: Path) -> None:
    key = load_pem_private_key(Path(files.pair).read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(ConfigurationError, match="the key for TLS is encrypted"):
        make_context(TlsOptions((files.pair,), (str(tmp_path / "key"),)))


def test_server_does_not_start_without_its_certificate(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(AssertionError, match=f"offload: error: cannot read '{missing}' for TLS"):
        Server(MIRROR, "--certfile", missing)
    with pytest.raises(AssertionError, match="offload: error: TLS needs a certificate; give --certfile"):
        Server(MIRROR, "--ca-certs", missing, "--cert-reqs", "2")


HOOK = """
import ssl

def ssl_context(config, default_ssl_context_factory):
    assert config.is_ssl
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
"""
OWN = """
import ssl

def ssl_context(config, default_ssl_context_factory):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config.certfile[0])
    return context
"""


@pytest.mark.parametrize(("hook", "takes_old"), [(HOOK, False), (OWN, True)])
def test_hook_of_the_configuration_file_makes_the_context(
    files: Files, tmp_path: Path, hook: str, takes_old: bool
) -> None:
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(hook)
    with serving(MIRROR, "-c", str(config), "--certfile", files.pair) as server:
        assert environ_of(ask(server, files.client()))["wsgi.url_scheme"] == "https"
        old = files.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        if takes_old:
            ask(server, old)
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
                ask(server, old)


def test_key_in_its_own_file_and_ciphers_are_used(files: Files, tmp_path: Path) -> None:
    certificate = files.authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    cipher = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    arguments = ["--certfile", str(tmp_path / "cert"), "--keyfile", str(tmp_path / "key"), "--ciphers", cipher]
    context = files.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(MIRROR, *arguments) as server, tls(server, context) as sock:
        chosen = sock.cipher()
        assert chosen is not None
        assert chosen[0] in cipher
