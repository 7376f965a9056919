"""TLS and users: ``rediss://``, ``rediss+sentinel://`` and ``rediss+cluster://``, on servers that speak TLS only."""

import re
import threading
from urllib.parse import quote

import pytest

from offload.exceptions import ConfigurationError, LayerUnavailable
from offload.layers.addresses.urls import layer_from_url
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import (
    RedisCluster,
    RedisServer,
    SentinelSet,
    make_certificates,
    redis_server,  # noqa: F401  # a fixture
    running_redis,
    until,
)

PASSWORD = "p@ss/word:?#"
USER = f"site:{quote(PASSWORD, safe='')}@"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, certificates):
    with running_redis(tmp_path_factory.mktemp("redis"), tls=certificates) as server:
        yield server


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory, certificates):
    servers = SentinelSet(tmp_path_factory.mktemp("sentinel"), tls=certificates)
    for server in servers.servers:
        allow(server)
    for sentinel in servers.sentinels:
        assert sentinel.run("ACL", "SETUSER", "watcher", "on", ">hunter2", "+@all", "&*") == b"OK"
    yield servers
    servers.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, certificates):
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"), tls=certificates)
    for node in cluster.nodes:
        allow(node)
    yield cluster
    cluster.kill()


def allow(server: RedisServer):
    """A user with the rights that the reference page tells."""
    rights = "+@read +@write +@pubsub +@scripting +@connection +time +client|unblock +cluster|slots"
    assert server.run("ACL", "SETUSER", "site", "on", f">{PASSWORD}", "~*", "&*", *rights.split()) == b"OK"


def with_user(url):
    return url.replace("://", f"://{USER}", 1)


def users(server):
    """Of the layers' connections."""
    return set(re.findall(rb" name=offload-\S* .* user=(\S*) ", server.run("CLIENT", "LIST")))


def goes_round(layer, other):
    """All that a layer does crosses from one to the other."""
    receiver = joined(layer, "news")
    other.group_send("news", {"text": "x" * 100_000})
    assert receiver.next() == {"text": "x" * 100_000}
    other.send(receiver.channel, {"n": 1})
    assert receiver.next() == {"n": 1}
    other.group_add("late", receiver.channel)
    layer.group_send("late", {"n": 2})
    assert receiver.next() == {"n": 2}
    layer.send("queue", {"n": 3})
    assert other.receive(["queue"], 5) == ("queue", {"n": 3})
    other.session_save("key", {"n": 4}, 60)
    assert layer.session_load("key") == {"n": 4}


@pytest.fixture
def pair(certificates):
    """Two layers of an address."""
    made = []

    def make(url, **more):
        query = "&".join(f"{name}={value}" for name, value in {"ssl_ca_certs": certificates.authority, **more}.items())
        made.extend(layer_from_url(f"{url}{'&' if '?' in url else '?'}{query}") for _ in range(2))
        return made

    yield make
    for layer in made:
        layer.close()


def unavailable(layer):
    with pytest.raises(LayerUnavailable) as caught:
        layer.check()
    assert "hunter2" not in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert USER not in str(caught.value)
    return str(caught.value)


# One server


def test_layer_over_tls(server, pair):
    goes_round(*pair(server.url))


def test_layer_over_tls_with_a_user(server, pair):
    allow(server)
    layers = pair(with_user(server.url))
    goes_round(*layers)
    assert users(server) == {b"site"}


def test_threads_read_and_write_one_connection_at_a_time(server, pair):
    """OpenSSL's state of a connection does not bear two of them at once."""
    layer, other = pair(server.url)
    receiver = joined(layer, "news")
    end = threading.Event()
    sent = []

    def send():
        while not end.is_set():
            other.group_send("news", {"text": "x" * 200})
            sent.append(1)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3000):
            layer.group_add(f"room-{number}", receiver.channel)
            layer.group_discard(f"room-{number}", receiver.channel)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    for _ in sent:
        receiver.next()
    assert layer.statistics()["reconnects"] == 0


def test_certificate_of_an_unknown_authority_is_refused(server, redis_layers):  # noqa: F811
    assert re.fullmatch(
        rf"layer 'redis' cannot reach {re.escape(server.url)}: its certificate was not accepted"
        r" \(.*certificate.*\); start Redis there, or choose another layer",
        unavailable(redis_layers(server.url)),
    )


def test_certificate_must_name_the_host_unless_told_otherwise(server, certificates, redis_layers):  # noqa: F811
    with running_redis(server.directory / "second", tls=certificates, bind=("127.0.0.1", "127.0.0.2")) as other:
        url = other.url.replace("127.0.0.1", "127.0.0.2")
        assert "its certificate was not accepted (IP address mismatch" in unavailable(
            redis_layers(url, ssl_ca_certs=str(certificates.authority))
        )
        redis_layers(url, ssl_ca_certs=str(certificates.authority), ssl_check_hostname=False).check()


@pytest.mark.parametrize("word", ["none", "CERT_NONE"])
def test_certificate_is_not_looked_at_when_told_so(server, word):
    layer = layer_from_url(f"{server.url}?ssl_cert_reqs={word}")
    layer.check()
    layer.close()


def test_client_shows_its_certificate(tmp_path, certificates, redis_layers):  # noqa: F811
    with running_redis(tmp_path, tls=certificates) as server:
        assert server.run("CONFIG", "SET", "tls-auth-clients", "yes") == b"OK"
        trusted = {"ssl_ca_certs": str(certificates.authority)}
        assert f"cannot reach {server.url}: " in unavailable(redis_layers(server.url, **trusted))
        redis_layers(
            server.url, **trusted, ssl_certfile=str(certificates.certificate), ssl_keyfile=str(certificates.key)
        ).check()


# Sentinel


def test_sentinel_over_tls_with_users_of_its_own(sentinels, pair):
    layers = pair(with_user(sentinels.url), sentinel_username="watcher", sentinel_password="hunter2")
    goes_round(*layers)
    assert users(sentinels.servers[0]) == {b"site"}


def test_wrong_password_for_sentinel_is_one_sentence(sentinels, certificates, redis_layers):  # noqa: F811
    layer = redis_layers(
        with_user(sentinels.url),
        ssl_ca_certs=str(certificates.authority),
        sentinel_username="watcher",
        sentinel_password="not-hunter2-but-hunter3",
    )
    reasons = "".join(
        f"; 127.0.0.1:{sentinel.port}: invalid username-password pair or user is disabled"
        for sentinel in sentinels.sentinels
    )
    assert unavailable(layer) == (
        f"layer 'redis' cannot reach {sentinels.url}: no master found for 'mymaster'{reasons};"
        " start Redis there, or choose another layer"
    )


def test_sentinel_of_an_unknown_authority_is_refused(sentinels, redis_layers):  # noqa: F811
    text = unavailable(redis_layers(sentinels.url))
    assert f"cannot reach {sentinels.url}: no master found for 'mymaster'; 127.0.0.1:" in text
    assert text.count(": its certificate was not accepted (") == 3


def test_sentinel_without_tls_watches_a_master_with_it(tmp_path, server, pair):
    with running_redis(tmp_path / "sentinel", sentinel=True) as sentinel:
        assert sentinel.run("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", str(server.port), "1") == b"OK"
        url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/0?service=mymaster"
        goes_round(*pair(url, sentinel_ssl="false"))


def test_sentinel_with_tls_watches_a_master_without_it(tmp_path, redis_server, certificates, pair):  # noqa: F811
    with running_redis(tmp_path / "sentinel", sentinel=True, tls=certificates) as sentinel:
        assert sentinel.run("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", str(redis_server.port), "1") == b"OK"
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/0?service=mymaster"
        goes_round(*pair(url, sentinel_ssl="true"))


def works(call):
    try:
        call()
    except LayerUnavailable:
        return False
    return True


def test_sentinel_failover_over_tls(tmp_path, certificates, pair):
    sentinels = SentinelSet(tmp_path, tls=certificates)
    try:
        layer, other = pair(sentinels.url)
        receiver = joined(layer, "news")
        sentinels.servers[0].kill()
        second = sentinels.servers[1]
        until(second.is_master, "another master", 30)
        until(lambda: layer.statistics()["reconnects"] >= 1, "the subscriber to be back", 30)
        until(lambda: works(other.check), "the sender to find the other master", 30)
        other.group_send("news", {"n": 1})
        receiver.until({"n": 1})
    finally:
        sentinels.kill()


# Cluster


def test_cluster_over_tls_with_a_user(cluster, pair):
    layers = pair(with_user(cluster.url))
    goes_round(*layers)
    for number in range(20):
        receiver = joined(layers[0], f"room-{number}")
        layers[1].group_send(f"room-{number}", {"n": number})
        assert receiver.next() == {"n": number}
    for node in cluster.nodes:
        assert users(node) == {b"site"}


def test_cluster_of_an_unknown_authority_is_refused(cluster, redis_layers):  # noqa: F811
    text = unavailable(redis_layers(cluster.url))
    assert text.startswith(f"layer 'redis' cannot reach {cluster.url}: ")
    assert "certificate" in text.lower()


def test_cluster_with_a_wrong_password_is_one_sentence(cluster, certificates, redis_layers):  # noqa: F811
    url = cluster.url.replace("://", "://site:wrong@", 1)
    text = unavailable(redis_layers(url, ssl_ca_certs=str(certificates.authority)))
    assert text.startswith(f"layer 'redis' cannot reach {cluster.url}: ")
    assert "username-password" in text


# Settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"hosts": "redis://h", "ssl_ca_certs": "/ca.pem"},
            "layer setting 'ssl_ca_certs' is for TLS, which redis://h:6379/0 does not use; write 'rediss' for 'redis'",
        ),
        (
            {"hosts": "redis+sentinel://h/?service=m", "ssl_check_hostname": False},
            "layer setting 'ssl_check_hostname' is for TLS, which redis+sentinel://h:26379/0?service=m does not use;"
            " write 'rediss' for 'redis'",
        ),
        (
            {"hosts": "rediss://h", "sentinel_password": "secret"},
            "layer setting 'sentinel_password' is for addresses with Sentinels, not for rediss://h:6379/0",
        ),
        (
            {"hosts": "rediss://h", "ssl_cert_reqs": "maybe"},
            "layer setting ssl_cert_reqs='maybe' is wrong: it must be 'required' or 'none'",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(arguments, message):
    with pytest.raises(ConfigurationError) as caught:
        RedisLayer(**arguments)
    assert str(caught.value) == message
