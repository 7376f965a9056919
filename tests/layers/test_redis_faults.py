"""The Redis layer when Redis is gone, comes back, freezes, or refuses."""

import logging
import os
import signal
import socket
import threading
import time

import pytest

from offload.exceptions import ConfigurationError, LayerUnavailable
from offload.layers.local.owner import LocalProcess
from offload.layers.redis import RedisLayer
from offload.layers.redis.address import parse_hosts
from tests.layers.redis_receiver import Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import free_port, redis_server, running_redis, until  # noqa: F401  # a fixture

PATIENCE = 10.0


def unavailable(call, *arguments):
    """The error's text, and how long it took."""
    start = time.monotonic()
    with pytest.raises(LayerUnavailable) as caught:
        call(*arguments)
    return str(caught.value), time.monotonic() - start


def works(call, *arguments):
    try:
        call(*arguments)
    except LayerUnavailable:
        return False
    return True


# Not there


def test_check_of_a_server_that_is_not_there_says_so_at_once(redis_layers):  # noqa: F811
    port = free_port()
    layer = redis_layers(f"redis://127.0.0.1:{port}/0")
    text, took = unavailable(layer.check)
    assert text == (
        f"layer 'redis' cannot reach redis://127.0.0.1:{port}/0: connection refused;"
        " start Redis there, or choose another layer"
    )
    assert took < 1


def test_check_names_a_missing_socket(redis_layers, tmp_path):  # noqa: F811
    layer = redis_layers(f"redis+unix://{tmp_path}/none.sock")
    text, _ = unavailable(layer.check)
    assert text.startswith(f"layer 'redis' cannot reach redis+unix://{tmp_path}/none.sock: no such file or directory;")


def test_everything_raises_without_a_server_and_leaves_nothing_running(redis_layers):  # noqa: F811
    layer = redis_layers(f"redis://127.0.0.1:{free_port()}/0")
    reply = "reply.other!0123456789abcdef"
    calls = [
        (layer.send, "queue", {}),
        (layer.send, reply, {}),
        (layer.receive, ["queue"], 0),
        (layer.receive, ["queue"], None),
        (layer.new_channel, "reply"),
        (layer.group_add, "group", "queue"),
        (layer.group_add, "group", reply),
        (layer.group_discard, "group", "queue"),
        (layer.group_discard, "group", reply),
        (layer.group_send, "group", {}),
        (layer.session_load, "key"),
        (layer.session_save, "key", {}, 60),
        (layer.session_delete, "key"),
        (layer.flush,),
    ]
    for call, *arguments in calls:
        text, took = unavailable(call, *arguments)
        assert "connection refused" in text, call
        assert took < 2, call
    assert layer.statistics()["lost"] == 3
    until(lambda: not _threads(), "the reader to end, as nothing is subscribed")


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("offload-redis")]


def test_server_that_lets_nobody_in_is_not_asked_by_every_send(redis_layers):  # noqa: F811
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(1000) == b"end":
                        return
                    asked.append(connection.sendall(b"-ERR max number of clients reached\r\n"))

        thread = threading.Thread(target=refuse)
        thread.start()
        address = listener.getsockname()
        layer = redis_layers(address)
        for _ in range(500):
            text, took = unavailable(layer.send, "queue", {})
            assert "max number of clients reached" in text
            assert took < 1
        with socket.create_connection(address) as end:
            end.sendall(b"end")
        thread.join(PATIENCE)
    assert 0 < len(asked) < 50


# Killed and started again


def test_killed_and_restarted_server_is_found_again_with_every_subscription(redis_server, redis_layers, caplog):  # noqa: F811
    caplog.set_level(logging.INFO, "offload.layer")
    layer, other = redis_layers(redis_server.url), redis_layers(redis_server.url)
    receivers = [joined(layer, "all", f"room-{number}") for number in range(20)]
    other.check()
    redis_server.kill()
    for sender in (layer, other):
        text, took = unavailable(sender.group_send, "all", {"n": 1})
        assert redis_server.shown in text
        assert took < 2
    redis_server.start()
    back = time.monotonic()
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    until(lambda: works(other.check), "the sender to ask again")
    assert time.monotonic() - back < 2
    other.group_send("all", {"n": 2})
    other.group_send("room-7", {"n": 3})
    for receiver in receivers:
        assert receiver.next() == {"n": 2}
    assert receivers[7].next() == {"n": 3}
    other.send(receivers[0].channel, {"n": 4})
    assert receivers[0].next() == {"n": 4}
    shown = redis_server.shown
    logs = [(record.levelname, record.message) for record in caplog.records]
    assert logs[0] == (
        "WARNING",
        f"layer 'redis' lost {shown}: connection closed; messages for 22 subscriptions are missed until it is back",
    )
    assert logs[-1][0] == "INFO"
    assert logs[-1][1].startswith(f"layer 'redis' is back at {shown} after ")
    assert len(logs) == 2


def test_senders_reach_a_server_as_soon_as_the_subscriber_is_back(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "all")
    for rounds in range(1, 5):
        redis_server.kill()
        done = threading.Event()

        def send_on(done: threading.Event = done) -> None:
            while not done.wait(0.002):
                works(layer.check)

        sender = threading.Thread(target=send_on)
        sender.start()
        until(lambda: not works(layer.check), "the server to be away")
        paused = time.monotonic() + 0.7
        until(lambda paused=paused: time.monotonic() > paused, "the longest pause between attempts")
        redis_server.start()
        done.set()
        sender.join()
        until(lambda rounds=rounds: layer.statistics()["reconnects"] == rounds, "the subscriber to be back")
        layer.group_send("all", {"round": rounds})
        assert receiver.next() == {"round": rounds}


def test_sender_without_subscriptions_notices_a_restart_before_it_sends(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    layer.send("queue", {"n": 1})
    redis_server.kill()
    redis_server.start()
    until(lambda: works(layer.send, "queue", {"n": 2}), "a send")
    assert layer.receive(["queue"], PATIENCE) == ("queue", {"n": 2})
    assert layer.statistics()["lost"] == 0


def test_subscription_during_the_outage_fails_and_later_ones_work(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "before", "left")
    redis_server.kill()
    _, took = unavailable(layer.group_add, "during", receiver.channel)
    assert took < 3
    layer.group_discard("left", receiver.channel)
    redis_server.start()
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    assert redis_server.run("PUBSUB", "CHANNELS", "group:*") == [b"group:before"]
    layer.group_add("during", receiver.channel)
    for group in ("left", "during", "before"):
        layer.group_send(group, {"group": group})
    assert receiver.next() == {"group": "during"}
    assert receiver.next() == {"group": "before"}


def test_add_to_a_group_that_is_lost_waits_for_its_return(redis_server, redis_layers, caplog):  # noqa: F811
    layer, other = redis_layers(redis_server.url), redis_layers(redis_server.url)
    first, second = joined(layer, "group"), Receiver(layer)
    redis_server.kill()
    until(lambda: "are missed" in caplog.text, "the loss to be noticed")
    new = Receiver(layer)  # who needs no group is served without waiting
    layer.send(new.channel, {"n": 0})
    assert new.next() == {"n": 0}
    adding = threading.Thread(target=layer.group_add, args=("group", second.channel))
    adding.start()
    # Long enough for one that does not wait to have returned.
    adding.join(0.1)
    assert adding.is_alive()
    redis_server.start()
    adding.join(PATIENCE)
    other.group_send("group", {"n": 1})
    assert first.next() == second.next() == {"n": 1}


def test_add_to_a_group_that_stays_lost_raises_in_time(redis_server, redis_layers, caplog):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=0.2)
    first, second = joined(layer, "group"), Receiver(layer)
    redis_server.kill()
    until(lambda: "are missed" in caplog.text, "the loss to be noticed")
    text, _ = unavailable(layer.group_add, "group", second.channel)
    assert text == (
        f"layer 'redis' lost {redis_server.shown}: connection closed; the subscription was not back within 0.2 s"
    )
    redis_server.start()
    until(lambda: works(layer.group_add, "group", second.channel), "the add to work")
    layer.group_send("group", {"n": 1})
    assert first.next() == second.next() == {"n": 1}


def test_waiting_receive_raises_when_the_server_dies(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    ended = []

    def wait():
        try:
            layer.receive(["queue"])
        except LayerUnavailable as error:
            ended.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: redis_server.watched_keys() == 1, "the receive to wait")
    redis_server.kill()
    thread.join(PATIENCE)
    assert len(ended) == 1
    assert redis_server.shown in ended[0]
    assert layer.statistics()["lost"] == 0


def test_waiting_receive_outlives_a_lost_subscriber(redis_server, redis_layers):  # noqa: F811
    layer, other = redis_layers(redis_server.url), redis_layers(redis_server.url)
    found = []
    thread = threading.Thread(target=lambda: found.append(layer.receive(["queue"], PATIENCE)))
    thread.start()
    until(lambda: redis_server.watched_keys() == 1, "the receive to wait")
    redis_server.cut_off("subscriber")
    until(lambda: redis_server.watched_keys() == 1, "the receive to wait again")
    other.send("queue", {"n": 1})
    thread.join(PATIENCE)
    assert found == [("queue", {"n": 1})]


def test_groups_come_and_go_while_the_server_restarts_again_and_again(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    steady = joined(layer, "steady")
    end = threading.Event()
    raised = []

    def churn(number):
        receiver = Receiver(layer)
        while not end.is_set():
            try:
                layer.group_add(f"churn-{number}", receiver.channel)
                layer.group_discard(f"churn-{number}", receiver.channel)
            except LayerUnavailable:
                end.wait(0.005)
            except BaseException as error:
                raised.append(error)
                raise

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(1, 4):
            redis_server.kill()
            redis_server.start()
            until(lambda turn=turn: layer.statistics()["reconnects"] >= turn, "the subscriber to be back")
            layer.group_send("steady", {"turn": turn})
            assert steady.next() == {"turn": turn}
    finally:
        end.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert raised == []
    until(lambda: redis_server.run("PUBSUB", "CHANNELS", "group:*") == [b"group:steady"], "the others to be given up")


def test_reader_that_failed_starts_anew(redis_server, redis_layers, monkeypatch, caplog):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "news")
    monkeypatch.setattr(LocalProcess, "arrived", lambda process, batch: 1 / 0)
    layer.group_send("news", {"n": 1})
    until(lambda: "reading from" in caplog.text, "the failure to be logged")
    monkeypatch.undo()
    until(lambda: layer.statistics()["reconnects"] >= 1, "the subscriber to be back")
    layer.group_send("news", {"n": 2})
    assert receiver.next() == {"n": 2}


# Frozen


def test_frozen_server_makes_everybody_raise_in_time_and_is_found_again(redis_server, redis_layers):  # noqa: F811
    layer, other = (redis_layers(redis_server.url, timeout=0.4) for _ in range(2))
    receiver = joined(layer, "news")
    other.check()
    redis_server.freeze()
    took = []

    def send():
        took.append(unavailable(other.group_send, "news", {"n": 1}))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(took) == 20
    assert max(seconds for _, seconds in took) < 2
    assert {text.partition("; ")[0] for text, _ in took} <= {
        f"layer 'redis' got no answer from {redis_server.shown} within 0.4 s",
        f"layer 'redis' cannot reach {redis_server.shown}: no answer within 0.4 s",
    }
    for call in (layer.group_add, layer.group_discard):
        _, seconds = unavailable(call, "else", "queue")
        assert seconds < 2
    _, seconds = unavailable(layer.group_add, "else", receiver.channel)
    assert seconds < 2
    _, seconds = unavailable(layer.receive, ["queue"], 0.1)
    assert seconds < 2
    redis_server.thaw()
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    until(lambda: works(other.group_send, "news", {"n": 2}), "a send")
    receiver.until({"n": 2})


def test_short_freeze_is_sat_out(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=PATIENCE)
    receiver = joined(layer, "news")
    redis_server.freeze()
    thread = threading.Thread(target=layer.group_send, args=("news", {"n": 1}))
    thread.start()
    redis_server.thaw()
    thread.join(PATIENCE)
    assert receiver.next() == {"n": 1}
    assert layer.statistics()["reconnects"] == 0


# Who does not get in, or may not


def test_password_is_used_and_never_shown(tmp_path, redis_layers):  # noqa: F811
    with running_redis(tmp_path, requirepass="hunter2") as server:
        url = f"redis://:hunter2@127.0.0.1:{server.port}/3"
        layer = redis_layers([url])
        joined(layer, "news")
        layer.send("queue", {})
        assert server.info("keyspace")["db3"].startswith("keys=1,")
        text, _ = unavailable(redis_layers([url.replace("hunter2", "hunter3")]).check)
        assert text == (
            f"layer 'redis' was refused by redis://127.0.0.1:{server.port}/3:"
            " invalid username-password pair or user is disabled"
        )
        text, _ = unavailable(redis_layers([server.url]).new_channel, "reply")
        assert text == f"layer 'redis' was refused by {server.shown}: Authentication required"
        server.kill()
        text, _ = unavailable(layer.check)
        assert "hunter" not in text
    assert "hunter" not in repr(parse_hosts(url))


def test_user_of_an_access_list_gets_what_it_may(redis_server, redis_layers):  # noqa: F811
    # It may not name its connections.
    rights = "~site:* resetchannels &site:* +@all -client +client|unblock"
    assert redis_server.run("ACL", "SETUSER", "app", "on", ">p@ss", *rights.split()) == b"OK"
    url = f"redis://app:p%40ss@127.0.0.1:{redis_server.port}"
    layer = redis_layers([url], prefix="site:")
    receiver = joined(layer, "news")
    layer.group_send("news", {"n": 1})
    assert receiver.next() == {"n": 1}
    stranger = redis_layers([url], prefix="other:")
    for call, *arguments in ((stranger.new_channel, "reply"), (stranger.send, "queue", {})):
        text, _ = unavailable(call, *arguments)
        assert text.startswith(f"layer 'redis' was refused by {redis_server.shown}: "), text
        assert "no permissions" in text.lower() or "can't access" in text


def test_error_of_one_command_is_its_senders_alone(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    redis_server.run("SET", "channel:broken", "no list")
    layer.check()
    results = []
    start = threading.Barrier(21)

    def send(channel):
        start.wait(PATIENCE)
        try:
            layer.send(channel, {})
            results.append((channel, "sent"))
        except LayerUnavailable as error:
            results.append((channel, "WRONGTYPE" if "WRONGTYPE" in str(error) else str(error)))

    threads = [threading.Thread(target=send, args=(("broken", "queue")[number % 2],)) for number in range(20)]
    for thread in threads:
        thread.start()
    start.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(results) == [("broken", "WRONGTYPE")] * 10 + [("queue", "sent")] * 10
    assert redis_server.run("LLEN", "channel:queue") == 10


def test_server_of_another_kind_is_no_redis(redis_layers):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        text, _ = unavailable(redis_layers(("127.0.0.1", listener.getsockname()[1])).check)
        thread.join(PATIENCE)
    assert "it does not speak Redis's protocol" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hosts": []}, "layer 'redis' has hosts=[]; it takes a list such as ['redis://host:6379/0']"),
        ({"hosts": ["http://:secret@h/"]}, "layer address '***@h/' is none of 'redis://', 'rediss://'"),
        (
            {"hosts": "redis://u:secret@h:port/"},
            "layer address 'redis://***@h:port/' has a wrong host or port in 'h:port'",
        ),
        ({"hosts": "redis:///0"}, "layer address 'redis:///0' names no host"),
        ({"hosts": "redis://h/zero"}, "layer address 'redis://h/zero' has the database 'zero', not a number"),
        ({"hosts": "redis://h?prefix=a"}, "layer address 'redis://h' has settings in its query"),
        ({"hosts": "redis+unix://"}, "layer address 'redis+unix://' has no socket path"),
        (
            {"hosts": "redis://a,b/0"},
            "layer address 'redis://a,b/0' names several hosts; several shards are written"
            " 'redis://h1:6379/0,redis://h2:6379/0', a cluster 'redis+cluster://h1,h2'",
        ),
        (
            {"hosts": "redis+sentinel://h1:26379,h2/0"},
            "layer address 'redis+sentinel://h1:26379,h2:26379' names no service; add '?service=NAME', as Sentinel",
        ),
        ({"hosts": "redis+sentinel://h1,/0?service=m"}, "layer address 'redis+sentinel://h1,/0' names no host"),
        (
            {"hosts": "redis+cluster://h1,h2/1"},
            "layer address 'redis+cluster://h1:6379,h2:6379' is a cluster, which has",
        ),
        (
            {"hosts": ["redis+cluster://h1", "redis://h2"]},
            "layer 'redis' has other hosts beside a cluster: redis+cluster://h1:6379, redis://h2:6379/0",
        ),
        (
            {"hosts": ["redis://:secret@h", ("h", 6379)]},
            "layer 'redis' has a host twice in redis://h:6379/0, redis://h:6379/0; each shard is named once",
        ),
        ({"hosts": [7]}, "layer 'redis' has the host 7; a host is a URL such as 'redis://host:6379/0'"),
        ({"hosts": "redis://h", "capacty": 1}, "layer 'redis' has no setting 'capacty'; did you mean 'capacity'?"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, message):
    with pytest.raises(ConfigurationError) as caught:
        RedisLayer(**arguments)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


def test_fork_while_the_server_is_frozen_leaves_the_child_usable(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=PATIENCE)
    joined(layer, "news")
    server = redis_server.process.pid
    redis_server.freeze()
    threads = [threading.Thread(target=layer.group_send, args=("news", {"n": n})) for n in range(5)]
    for thread in threads:
        thread.start()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.kill(server, signal.SIGCONT)
            layer.send("queue", {"from": "child"})
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    for thread in threads:
        thread.join(PATIENCE)
    assert layer.receive(["queue"], 0) == ("queue", {"from": "child"})
    assert layer.statistics()["sent"] == 5


def test_whoever_sends_while_the_layer_is_closed_hears_just_that(redis_server, redis_layers):  # noqa: F811
    texts: set[str] = set()

    def send_until_closed(layer, closed):
        while not closed.is_set():
            try:
                layer.group_send("all", {"n": 1})
            except LayerUnavailable as error:
                texts.add(str(error).partition(";")[0])

    for _ in range(20):
        layer, closed = redis_layers(redis_server.url), threading.Event()
        layer.check()
        senders = [threading.Thread(target=send_until_closed, args=(layer, closed)) for _ in range(4)]
        for sender in senders:
            sender.start()
        until(lambda layer=layer: layer.statistics()["sent"] > 20, "the senders to be busy")
        layer.close()
        closed.set()
        for sender in senders:
            sender.join(PATIENCE)
            assert not sender.is_alive()
    assert texts <= {"layer 'redis' was closed meanwhile"}
