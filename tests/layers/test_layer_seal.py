"""Messages sealed with keys: in transit, at rest, with keys that change, and what is refused."""

import itertools
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.exceptions import ConfigurationError, MessageTooLarge
from offload.layers.ipc import IPCLayer
from offload.layers.memory import MemoryLayer
from offload.layers.redis import RedisLayer
from offload.layers.words.codec import ENVELOPE, Codec, UndecodableMessage
from offload.layers.words.seal import CHANNEL, GROUP, PROCESS, QUEUE, SESSION
from offload.layers.words.settings import LayerSettings
from offload.testing.conformance import LayerConformance
from tests.layers.hubs import CountedByTheHub, HubProcess
from tests.layers.redis_receiver import Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import shared_redis_server  # noqa: F401  # a fixture

OLD, NEW, OTHER = ("the first key that was in use", "the key that took its place", "the key of somebody else")
PLAIN = Codec(10_000)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.binary()))
def test_sealed_content_comes_back_exactly(content):
    data = Codec(10_000, [NEW]).encode(content)
    assert data[:2] == bytes((ENVELOPE, 1))
    assert Codec(10_000, [NEW]).decode(data) == content


def test_nothing_of_a_sealed_content_shows():
    sealed = Codec(10_000, [NEW])
    data = sealed.encode({"card": "4111 1111"})
    assert b"card" not in data
    assert b"4111" not in data
    assert sealed.encode({"card": "4111 1111"}) != data


def test_keys_are_changed_step_by_step_without_losing_a_message():
    steps = [Codec(1000, keys) for keys in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])]
    for earlier, later in itertools.pairwise(steps):
        for sender, receiver in ((earlier, later), (later, earlier)):
            assert receiver.decode(sender.encode({"n": 1})) == {"n": 1}


@pytest.mark.parametrize(
    ("decodes", "data", "message"),
    [
        ([NEW], PLAIN.encode({}), "message is not sealed, which this layer's encryption_keys ask for"),
        ([NEW], b'{"text": "forged"}', "message is not sealed, which this layer's encryption_keys ask for"),
        ([NEW], b"", "message is not sealed, which this layer's encryption_keys ask for"),
        ([NEW, OLD], Codec(1000, [OTHER]).encode({}), "message is sealed with none of this layer's encryption_keys"),
        ([NEW], b"\xc1\x01", "message is sealed with none of this layer's encryption_keys"),
        ([NEW], b"\xc1\x01\xff\x00", "message is sealed with none of this layer's encryption_keys"),
        ([NEW], b"\xc1\x01" + b"A" * 30_000, "sealed message of 30002 bytes is over the limit of 10000"),
        ([NEW], Codec(100_000, [NEW]).encode({"a": "x" * 12_000}), "message of 12006 bytes is over the limit of 10000"),
        ([], Codec(1000, [NEW]).encode({}), "message is sealed, and this layer has no encryption_keys"),
        ([], b"\xc1\x02", "message has an envelope of unknown kind 02"),
    ],
)
def test_what_is_not_sealed_with_a_known_key_is_refused(decodes, data, message):
    with pytest.raises(UndecodableMessage) as caught:
        Codec(10_000, decodes).decode(data)
    assert str(caught.value) == message


def test_sealed_message_that_was_changed_is_refused():
    codec = Codec(1000, [NEW])
    data = codec.encode({"amount": 1})
    for place in range(2, len(data), 7):
        changed = data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]
        with pytest.raises(UndecodableMessage):
            codec.decode(changed)


def test_limit_is_that_of_the_content_and_not_of_its_seal():
    codec = Codec(1000, [NEW])
    assert len(codec.encode({"a": "x" * 990})) > 1000
    with pytest.raises(MessageTooLarge):
        codec.encode({"a": "x" * 1000})


def test_layer_shows_its_keys_to_nobody():
    assert OLD not in repr(LayerSettings(encryption_keys=[OLD]))
    assert OLD not in repr(vars(MemoryLayer(encryption_keys=[OLD])))


def test_keys_without_the_package_name_the_remedy():
    program = (
        "import sys\n"
        "sys.modules['cryptography'] = None\n"  # as if it were not installed
        "from offload.layers.memory import MemoryLayer\n"
        "MemoryLayer()\n"
        "MemoryLayer(encryption_keys=['a key that is long enough'])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == (
        "offload.exceptions.ConfigurationError: layer setting encryption_keys needs the cryptography package;"
        " run: pip install 'django-offload[encryption]'"
    )


class TestSealedRedisLayer(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, shared_redis_server):  # noqa: F811
        self.url = shared_redis_server.url

    def make_layer(self, **settings):
        return RedisLayer(self.url, encryption_keys=[NEW, OLD], **settings)


class TestSealedIPCLayer(CountedByTheHub, LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, hub):
        self.path = hub.path

    def make_layer(self, **settings):
        return IPCLayer(self.path, encryption_keys=[NEW, OLD], **settings)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    hub = HubProcess(str(tmp_path_factory.mktemp("hub") / "hub.sock"))
    hub.started()
    yield hub
    assert hub.stop() == 0
    hub.close()


def test_redis_sees_no_message_and_no_session(shared_redis_server, redis_layers, caplog):  # noqa: F811
    caplog.set_level(logging.WARNING, "offload.layer")
    server = shared_redis_server
    layer = redis_layers(server.url, encryption_keys=[NEW, OLD])
    older = redis_layers(server.url, encryption_keys=[OLD])
    receiver = joined(layer, "news")
    with server.connection() as spy:
        spy.run("SUBSCRIBE", "group:news")
        older.group_send("news", {"text": "hidden"})
        heard = spy.read()[2]
    assert heard.startswith(b"\xc1\x01")
    assert b"hidden" not in heard
    assert receiver.next() == {"text": "hidden"}
    older.send(receiver.channel, {"text": "to one"})
    assert receiver.next() == {"text": "to one"}
    older.send("queue", {"text": "hidden"})
    older.session_save("key", {"user": "hidden"}, 60)
    for stored in (server.run("LRANGE", "channel:queue", "0", "-1")[0], server.run("GET", "session:key")):
        assert b"hidden" not in stored
        assert b"\xc1\x01" in stored
    assert layer.receive(["queue"], 0) == ("queue", {"text": "hidden"})
    assert layer.session_load("key") == {"user": "hidden"}
    # Who can write to Redis cannot make a message.
    server.run("PUBLISH", "group:news", '{"text": "forged"}')
    older.group_send("news", {"text": "marker"})
    assert receiver.next() == {"text": "marker"}
    assert layer.statistics()["lost"] == 1
    assert caplog.messages == [
        "lost a message of group news: message is not sealed, which this layer's encryption_keys ask for"
    ]


def test_layers_without_the_key_lose_messages_and_say_so(shared_redis_server, redis_layers):  # noqa: F811
    sealed = redis_layers(shared_redis_server.url, encryption_keys=[NEW])
    plain = redis_layers(shared_redis_server.url)
    receiver = Receiver(plain)
    sealed.send(receiver.channel, {"n": 1})
    plain.send("end", {})
    assert plain.receive(["end"], 0) == ("end", {})
    sealed.send("end", {})
    assert plain.receive(["end"], 0) is None
    assert plain.statistics()["lost"] >= 1


USES = [(kind, name) for kind in (QUEUE, CHANNEL, GROUP, SESSION, PROCESS) for name in ("one", "other", "\ud800")]


@pytest.mark.parametrize("sealed_for", USES)
def test_sealed_content_opens_for_its_use_only(sealed_for):
    codec = Codec(1000, [NEW])
    data = codec.encode({"n": 1}, *sealed_for)
    for use in USES:
        # A named channel may be a member of any group.
        if use == sealed_for or (use[0], sealed_for[0]) == (QUEUE, GROUP):
            assert codec.decode(data, *use) == {"n": 1}
        else:
            with pytest.raises(UndecodableMessage) as caught:
                codec.decode(data, *use)
            assert str(caught.value) == "message was sealed for another channel, group or session"


def test_who_has_no_key_makes_and_moves_no_membership(shared_redis_server, redis_layers, caplog):  # noqa: F811
    caplog.set_level(logging.WARNING, "offload.layer")
    server = shared_redis_server
    layer, other, third = (redis_layers(server.url, encryption_keys=[NEW]) for _ in range(3))
    receiver, away = joined(layer, "mine"), Receiver(third)
    forged = [
        f"a1\n{other.process}\nboardroom\n{receiver.channel}",
        f"d2\n{other.process}\nmine\n{receiver.channel}",
        "r3\n",
    ]
    with server.connection() as spy:
        spy.run("SUBSCRIBE", f"inbox:{third.process}")
        other.group_add("boardroom", away.channel)
        copied = spy.read()[2]
    assert b"boardroom" not in copied
    for frame in (*forged, copied):
        assert server.run("PUBLISH", f"inbox:{layer.process}", frame) == 1
    other.send(receiver.channel, {"marker": 1})
    assert receiver.next() == {"marker": 1}
    other.group_add("next", receiver.channel)  # behind whatever the forged ones asked for
    other.group_send("boardroom", {"secret": 1})
    other.group_send("mine", {"mine": 1})
    other.group_send("next", {"next": 1})
    assert away.next() == {"secret": 1}
    assert [receiver.next() for _ in range(2)] == [{"mine": 1}, {"next": 1}]
    assert layer.statistics()["lost"] == 4
    not_sealed = "message is not sealed, which this layer's encryption_keys ask for"
    assert caplog.messages == [
        *[f"lost a message to this process's inbox: {not_sealed}"] * 3,
        "lost a message to this process's inbox: message was sealed for another channel, group or session",
    ]


def test_who_has_no_key_moves_no_message_and_no_session(shared_redis_server, redis_layers, caplog):  # noqa: F811
    caplog.set_level(logging.WARNING, "offload.layer")
    server = shared_redis_server
    layer, other = (redis_layers(server.url, encryption_keys=[NEW]) for _ in range(2))
    one, two = joined(layer, "public"), joined(layer, "private")
    with server.connection() as spy:
        spy.run("SUBSCRIBE", f"inbox:{layer.process}", "group:private")
        spy.read()
        other.send(one.channel, {"for": "one"})
        direct = spy.read()[2]
        other.group_send("private", {"for": "private"})
        grouped = spy.read()[2]
    assert (one.next(), two.next()) == ({"for": "one"}, {"for": "private"})
    server.run("PUBLISH", f"inbox:{layer.process}", direct.replace(one.channel.encode(), two.channel.encode()))
    server.run("PUBLISH", "group:public", direct.partition(b"\n")[2])
    server.run("PUBLISH", "group:public", grouped)
    server.run("PUBLISH", f"inbox:{layer.process}", b"m%b\n%b" % (one.channel.encode(), grouped))
    for receiver in (one, two):
        other.send(receiver.channel, {"marker": 1})
        assert receiver.next() == {"marker": 1}
    other.session_save("admin", {"user": "admin"}, 60)
    server.run("SET", "session:guest", server.run("GET", "session:admin"))
    assert layer.session_load("admin") == {"user": "admin"}
    assert layer.session_load("guest") is None
    assert layer.statistics()["lost"] == 5
    moved = "message was sealed for another channel, group or session"
    assert caplog.messages == [
        f"lost a message of {two.channel}: {moved}",
        *[f"lost a message of group public: {moved}"] * 2,
        f"lost a message of {one.channel}: {moved}",
        f"lost a message of session guest: {moved}",
    ]


@pytest.mark.parametrize("size", [100, 1000, 1023, 1024, 1025, 4096, 99_999])
def test_size_of_a_sealed_message_is_known_beforehand(size):
    codec = Codec(size, [NEW])
    overhead = len(Codec(2 * size).encode({"a": b"x" * size})) - size
    data = codec.encode({"a": b"x" * (size - overhead)})
    assert len(data) == codec.max_encoded_size
    with pytest.raises(MessageTooLarge):
        codec.encode({"a": b"x" * (size - overhead + 1)})


def test_ipc_layer_refuses_a_limit_that_its_hub_could_not_carry_sealed(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        IPCLayer(str(tmp_path / "hub.sock"), max_size=60_000_000, encryption_keys=[NEW])
    assert str(caught.value) == (
        "layer setting max_size=60000000 (80000122 when sealed) is over the 67043328 bytes that the ipc layer carries"
    )
    IPCLayer(str(tmp_path / "hub.sock"), max_size=60_000_000).close()
    IPCLayer(str(tmp_path / "hub.sock"), max_size=50_000_000, encryption_keys=[NEW]).close()
