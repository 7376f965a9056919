"""The IPC layer when things go wrong, and in several real processes: hubs that die, hang or are not there, receivers
that give up or are killed, clients that do not read, forks."""

import gc
import os
import queue
import signal
import socket
import sys
import threading
import time
import weakref

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.ipc import IPCLayer, wire
from offload.layers.local.inbox import message_frame
from tests.layers.hubs import PATIENCE, HubProcess, fork, run, succeeded


@pytest.fixture
def hubs(tmp_path):
    """Start hubs on one path."""
    made = []

    def start(**settings):
        hub = HubProcess(tmp_path / "hub.sock", **settings)
        made.append(hub)
        return hub

    yield start
    for hub in made:
        hub.close()


@pytest.fixture
def hub(hubs):
    return hubs().started()


@pytest.fixture
def layers(tmp_path):
    made = []

    def make(**settings):
        layer = IPCLayer(str(tmp_path / "hub.sock"), **settings)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        layer.close()


class Inbox:
    def __init__(self, layer, prefix="reply"):
        self.queue = queue.SimpleQueue()
        self.name = layer.new_channel(prefix)
        layer.attach(self.name, self.queue.put)

    def next(self):
        return self.queue.get(timeout=PATIENCE).content


class RawClient:
    """A client that does what it is told and nothing else."""

    def __init__(self, path, process="raw"):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self._reader = wire.FrameReader()
        self._frames = []
        settings = {"expiry": 60.0, "capacity": 100, "channel_capacity": [], "group_expiry": 60.0}
        assert self.ask(wire.HELLO, 1, wire.VERSION, "", process, settings) == [wire.ANSWER, 1, wire.OK, wire.VERSION]

    def say(self, *items):
        self.socket.sendall(wire.pack(*items))

    def ask(self, *items):
        self.say(*items)
        return self.next()

    def next(self):
        while not self._frames:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def close(self):
        self.socket.close()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.005)


# A hub that is not there


def test_check_without_a_hub_says_at_once_what_to_do(layers, tmp_path):
    layer = layers(timeout=PATIENCE)
    before = time.monotonic()
    with pytest.raises(LayerUnavailable) as raised:
        layer.check()
    assert time.monotonic() - before < PATIENCE / 2
    path = tmp_path / "hub.sock"
    assert str(raised.value) == (
        f"layer 'ipc' cannot reach its hub at {path}: no such file;"
        " start 'offload APP' in this directory, or name the socket with ipc:///path"
    )


def test_every_call_is_bounded_without_a_hub(layers):
    layer = layers(timeout=0.05)
    calls = [
        lambda: layer.send("queue", {}),
        lambda: layer.send("reply.nobody!0123456789abcdef", {}),
        lambda: layer.receive(["queue"], 0),
        lambda: layer.receive(["queue"], None),
        lambda: layer.new_channel("reply"),
        lambda: layer.group_add("group", "queue"),
        lambda: layer.group_add("group", "reply.nobody!0123456789abcdef"),
        lambda: layer.group_send("group", {}),
        lambda: layer.session_load("key"),
        lambda: layer.session_save("key", {}, 1),
        layer.flush,
        layer.hub_statistics,
    ]
    for call in calls:
        with pytest.raises(LayerUnavailable):
            call()
    layer.detach("reply.nobody!0123456789abcdef")
    layer.close()


def test_expected_hub_is_waited_for_as_long_as_the_timeout(layers, tmp_path):
    layer = layers(timeout=0.2)
    layer.expect_hub()
    before = time.monotonic()
    with pytest.raises(LayerUnavailable) as raised:
        layer.check()
    assert 0.2 <= time.monotonic() - before < PATIENCE
    assert f"cannot reach its hub at {tmp_path / 'hub.sock'}: no such file" in str(raised.value)


def checking(layer):
    """A thread that calls `check`, and the errors that it raised."""
    failed = []

    def check():
        try:
            layer.check()
        except LayerUnavailable as error:
            failed.append(str(error))

    thread = threading.Thread(target=check)
    thread.start()
    return thread, failed


def test_check_waits_for_an_expected_hub(layers, hubs):
    layer = layers(timeout=PATIENCE)
    layer.expect_hub()
    thread, failed = checking(layer)
    hubs()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert failed == []


def test_socket_that_nobody_serves_is_named(layers, tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "hub.sock"))
    layer = layers(timeout=PATIENCE)
    before = time.monotonic()
    with pytest.raises(LayerUnavailable, match="connection refused"):
        layer.check()
    assert time.monotonic() - before < PATIENCE / 2


# A hub that dies


def test_killed_hub_under_load_costs_bounded_errors_and_everything_resumes(hubs, layers):
    hub = hubs().started()
    timeout = 3.0
    # With room for all that is sent, so that only the loss of the hub can be reported.
    server, script, worker = [layers(timeout=timeout, capacity=1_000_000) for _ in range(3)]
    inboxes = [Inbox(server) for _ in range(3)]
    for number in range(200):
        server.group_add(f"room-{number}", inboxes[number % 3].name)
    server.group_add("left", inboxes[0].name)
    stop, killed = threading.Event(), threading.Event()
    errors, slowest, sent_after, taken = [], [0.0], [0], [0]

    def load(number):
        while not stop.is_set():
            before = time.monotonic()
            try:
                script.group_send(f"room-{number}", {"load": number})
                script.send(inboxes[1].name, {"load": number})
                script.send("jobs", {})
                sent_after[0] += killed.is_set()
            except LayerUnavailable as error:
                errors.append(error)
            slowest[0] = max(slowest[0], time.monotonic() - before)

    def work():
        while not stop.is_set():
            try:
                taken[0] += worker.receive(["jobs"], 0.5) is not None
            except LayerUnavailable as error:
                errors.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: taken[0] > 50)
        hub.kill()
        server.group_discard("left", inboxes[0].name)  # while there is no hub
        hubs().started()
        until(lambda: server.statistics()["reconnects"] == 1)
        killed.set()
        until(lambda: sent_after[0] > 50)
        at_return = taken[0]
        until(lambda: taken[0] > at_return + 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert slowest[0] < timeout + 2
    # Membership is as it was, for each group. Messages of the load may still be on their way.
    script.group_send("left", {"text": "left"})
    for number in range(200):
        script.group_send(f"room-{number}", {"n": number})
    for start, inbox in enumerate(inboxes):
        numbers = []
        while len(numbers) < len(range(start, 200, 3)):
            content = inbox.next()
            if "load" not in content:
                numbers.append(content["n"])
        assert numbers == list(range(start, 200, 3))
    assert server.statistics()["reconnects"] == 1
    assert script.hub_statistics()["subscriptions"] == 200


def test_add_for_another_process_waits_for_it_to_come_back(hubs, layers):
    hub = hubs().started()
    owner, other = layers(), layers()
    inbox = Inbox(owner)
    for _ in range(3):
        hub.kill()
        hub = hubs().started()
        other.group_add("group", inbox.name)
        other.group_send("group", {"text": "in force"})
        assert inbox.next() == {"text": "in force"}
        other.send(inbox.name, {"text": "direct"})
        assert inbox.next() == {"text": "direct"}
        other.group_discard("group", inbox.name)


def test_young_hub_waits_two_seconds_for_processes_that_are_not_back_yet(hubs, layers):
    hub = hubs().started()
    other = layers()
    other.check()
    hub.kill()
    before = time.monotonic()
    hubs().started()
    other.group_add("group", "reply.away!0123456789abcdef")
    assert time.monotonic() - before >= 2.0


def test_add_to_a_group_that_is_lost_waits_for_its_return(hubs, layers, caplog):
    hub = hubs().started()
    layer, other = layers(), layers()
    first, second = Inbox(layer), Inbox(layer)
    layer.group_add("group", first.name)
    hub.kill()
    until(lambda: "lost its hub" in caplog.text)
    adding = threading.Thread(target=layer.group_add, args=("group", second.name))
    adding.start()
    # Long enough for one that does not wait to have returned.
    adding.join(0.1)
    assert adding.is_alive()
    hubs().started()
    adding.join(PATIENCE)
    other.group_send("group", {"n": 1})
    assert first.next() == second.next() == {"n": 1}


def test_add_to_a_group_that_stays_lost_raises_in_time(hubs, layers, caplog):
    hub = hubs().started()
    layer = layers(timeout=0.2)
    first, second = Inbox(layer), Inbox(layer)
    layer.group_add("group", first.name)
    hub.kill()
    until(lambda: "lost its hub" in caplog.text)
    with pytest.raises(LayerUnavailable) as caught:
        layer.group_add("group", second.name)
    assert str(caught.value) == (
        f"layer 'ipc' lost its hub at {layer.path}; the subscription was not back within 0.2 s"
    )
    hubs().started()
    until(lambda: layer.statistics()["reconnects"] == 1)
    layer.group_add("group", second.name)
    layer.group_send("group", {"n": 1})
    assert first.next() == second.next() == {"n": 1}


def test_waiting_receive_goes_on_with_the_next_hub(hubs, layers):
    hub = hubs().started()
    receiver, sender = layers(), layers()
    found = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: found.put(receiver.receive(["queue"], 2 * PATIENCE)))
    thread.start()
    until(lambda: sender.hub_statistics()["waiting"] == 1)
    hub.kill()
    hubs().started()
    sender.send("queue", {"n": 1})
    assert found.get(timeout=PATIENCE) == ("queue", {"n": 1})
    thread.join()


def test_receive_that_finds_the_connection_broken_goes_on_with_the_next(tmp_path, layers):
    layer = layers(timeout=PATIENCE)

    def serve(client):
        """Until it is asked for a message."""
        reader = wire.FrameReader()
        while data := client.recv(65536):
            for frame in reader.feed(data):
                if frame[0] == wire.TAKE:
                    client.sendall(wire.pack(wire.ANSWER, frame[1], wire.OK, ("queue", layer.codec.encode({"n": 1}))))
                elif frame[1]:
                    client.sendall(wire.pack(wire.ANSWER, frame[1], wire.OK, None))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hub.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)
        connections = queue.SimpleQueue()

        def accept():
            for _ in range(2):
                client, _ = listener.accept()
                connections.put(client)
                threads.append(threading.Thread(target=serve, args=(client,)))
                threads[-1].start()

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        layer.check()
        first = connections.get(timeout=PATIENCE)
        # What is sent fails, before its end could be read.
        first.shutdown(socket.SHUT_RD)
        found = queue.SimpleQueue()
        threading.Thread(target=lambda: found.put(layer.receive(["queue"])), daemon=True).start()
        assert found.get(timeout=PATIENCE) == ("queue", {"n": 1})
        layer.close()
        for thread in threads:
            thread.join(PATIENCE)
        for client in (first, connections.get(timeout=PATIENCE)):
            client.close()


def test_loss_and_return_are_logged(hubs, layers, caplog):
    caplog.set_level("INFO", "offload.layer")
    hub = hubs().started()
    layer = layers()
    layer.new_channel("reply")
    hub.kill()
    hubs().started()
    until(lambda: layer.statistics()["reconnects"] == 1)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"layer 'ipc' lost its hub at {layer.path}; its queued messages and sessions are gone",
        ),
        ("INFO", f"layer 'ipc' has its hub at {layer.path} again; groups restored: 0"),
    ]


# A hub that hangs


def test_frozen_hub_costs_bounded_errors_and_loses_nothing_that_was_there(hub, layers):
    layer = layers(timeout=0.2)
    layer.send("queue", {"n": 1})
    hub.freeze()
    try:
        for call in (layer.check, lambda: layer.receive(["queue"], 0), lambda: layer.group_send("group", {})):
            with pytest.raises(LayerUnavailable, match=r"got no answer from its hub at .* within 0\.2 s"):
                call()
        # More than the socket takes, so that the rest has to wait for a thread to write it.
        big = {"bytes": bytes(1024 * 1024)}
        for _ in range(3):
            with pytest.raises(LayerUnavailable, match="got no answer"):
                layer.session_save("key", big, 60)
    finally:
        hub.thaw()
    patient = layers()
    until(lambda: patient.session_load("key") == big)
    assert layer.receive(["queue"], PATIENCE) == ("queue", {"n": 1})


def test_hub_that_does_not_read_bounds_what_waits_for_it(hub, layers):
    layer = layers(timeout=0.5, max_unsent=1024 * 1024)
    layer.check()
    hub.freeze()
    messages = []
    for _ in range(4):
        with pytest.raises(LayerUnavailable) as raised:
            layer.send("queue", {"bytes": bytes(1024 * 1024)})
        messages.append(str(raised.value))
    assert any("to read" in message for message in messages)
    hub.thaw()


def test_what_leaves_in_pieces_arrives_whole_and_in_order(hub, layers):
    sender, receiver = layers(capacity=1000), layers()
    inbox = Inbox(receiver)
    bodies = [bytes([number]) * (number * 7919) for number in range(200)]
    senders = [
        threading.Thread(target=lambda part=part: [sender.send(inbox.name, {"b": body}) for body in bodies[part::4]])
        for part in range(4)
    ]
    for thread in senders:
        thread.start()
    found = [inbox.next()["b"] for _ in bodies]
    for thread in senders:
        thread.join(PATIENCE)
    assert sorted(found) == sorted(bodies)
    for part in range(4):
        assert [body for body in found if body in bodies[part::4]] == bodies[part::4]


# The hub's life


def test_second_hub_stands_by_and_takes_over(hubs, layers):
    first = hubs().started()
    layer = layers()
    inbox = Inbox(layer)
    layer.group_add("group", inbox.name)
    second = hubs()
    second.wait_for("standing by")
    first.kill()
    second.started()
    until(lambda: layer.statistics()["reconnects"] == 1)
    layers().group_send("group", {"text": "taken over"})
    assert inbox.next() == {"text": "taken over"}
    third = hubs()
    third.wait_for("standing by")
    assert second.stop() == 0
    third.started()
    layers().check()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_hub_whose_lock_file_was_removed_stays_the_only_one(hubs, layers, tmp_path, end):
    first = hubs().started()
    layer, other = layers(), layers()
    inbox = Inbox(layer)
    layer.group_add("group", inbox.name)
    (tmp_path / "hub.sock.lock").unlink()
    second = hubs()
    second.wait_for("whose lock file was removed; standing by")
    third = hubs()
    third.wait_for("standing by")
    other.group_send("group", {"n": 1})
    assert inbox.next() == {"n": 1}
    getattr(first, end)()
    second.started()
    until(lambda: layer.statistics()["reconnects"] == 1)
    layers().group_send("group", {"n": 2})
    assert inbox.next() == {"n": 2}
    assert second.stop() == 0
    third.started()
    layers().check()


def test_hub_that_outlives_one_without_lock_ends_when_told(hubs, layers, tmp_path):
    hubs().started()
    (tmp_path / "hub.sock.lock").unlink()
    second = hubs()
    second.wait_for("standing by")
    assert second.stop() == 0
    layers().check()


def test_hub_that_stands_by_ends_on_sigterm_and_with_its_parent(hubs, layers):
    hubs().started()
    told, orphan = hubs(), hubs(life=True)
    for hub in (told, orphan):
        hub.wait_for("standing by")
    assert told.stop() == 0
    orphan.life.close()
    assert orphan.process.wait(PATIENCE) == 0
    layers().check()


def test_hub_ends_with_its_parent_and_removes_its_socket(hubs, tmp_path):
    hub = hubs(life=True).started()
    hub.life.close()
    assert hub.process.wait(PATIENCE) == 0
    assert not (tmp_path / "hub.sock").exists()


def test_hub_whose_socket_was_removed_ends_so_that_another_can_be_made(hubs, layers, tmp_path):
    hub = hubs(tick=0.01).started()
    (tmp_path / "hub.sock").unlink()
    assert hub.process.wait(PATIENCE) == 1
    hub.wait_for("was removed by somebody")
    hubs().started()
    layers().check()


def test_hub_leaves_the_socket_of_another_alone(hubs, layers, tmp_path):
    first = hubs().started()
    (tmp_path / "hub.sock").unlink()
    (tmp_path / "hub.sock.lock").unlink()
    hubs().started()
    assert first.stop() == 0
    layers().check()


def test_hub_drops_what_is_over_its_time_though_nobody_asks(hubs, layers):
    hubs(tick=0.01).started()
    layer, watcher = layers(expiry=0.05), layers(prefix="other:")
    layer.send("queue", {})
    layer.session_save("key", {}, 0.05)
    layer.check()
    watcher.check()
    until(lambda: not (layer.hub_statistics()["pending"] or layer.hub_statistics()["sessions"]))
    assert layer.hub_statistics()["expired"] == 1


def test_hub_ignores_what_a_terminal_sends(hub, layers):
    for number in (signal.SIGINT, signal.SIGHUP):
        hub.process.send_signal(number)
    layers().check()
    assert hub.stop() == 0


def test_hub_survives_clients_that_talk_nonsense(hub, layers):
    layer = layers()
    layer.check()
    for data in (b"GET / HTTP/1.1\r\n\r\n", wire.pack(99, 1), wire.pack(wire.HELLO, 1, wire.VERSION, "", "x", None)):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(hub.path)
            client.sendall(data)
            assert client.recv(100) == b""
    client = RawClient(hub.path)
    frame = client.ask(wire.PUSH, 5, "queue")
    assert frame[:3] == [wire.ANSWER, 5, wire.ERROR]
    client.say(99, 6)
    assert client.next() is None
    client.close()
    layer.check()


def test_hub_of_another_version_is_named_at_once(hub, layers, monkeypatch):
    monkeypatch.setattr(wire, "VERSION", 99)
    with pytest.raises(
        LayerUnavailable, match=r"hub at .*, which speaks version 3 of its protocol, and this process version 99"
    ):
        layers(timeout=2 * PATIENCE).check()


# Receivers that give up or die


def test_receivers_that_give_up_lose_no_message(hub, layers):
    layer, sender = layers(), layers(capacity=100_000)
    taken, stop = [], threading.Event()

    def receive():
        while not stop.is_set():
            found = layer.receive(["jobs"], 0.0005)
            if found is not None:
                taken.append(found[1]["n"])

    threads = [threading.Thread(target=receive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        sender.send("jobs", {"n": number})
    until(lambda: len(taken) >= 2000)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(taken) == list(range(2000))


def test_message_handed_to_a_client_that_dies_goes_to_the_next(hub, layers):
    layer = layers()
    layer.send("queue", {"n": 1})
    layer.send("queue", {"n": 2})
    dying = RawClient(hub.path)
    assert dying.ask(wire.TAKE, 2, ["queue"], None)[3][0] == "queue"
    dying.close()
    until(lambda: layer.hub_statistics()["clients"] == 1)
    assert [layer.receive(["queue"], 0)[1]["n"] for _ in range(2)] == [1, 2]


def test_killed_receivers_lose_no_message(hub, layers):
    def receive_for_ever():
        own = IPCLayer(hub.path)
        while True:
            own.receive(["jobs"], None)

    layer = layers()
    killed = [fork(receive_for_ever) for _ in range(3)]
    try:
        until(lambda: layer.hub_statistics()["waiting"] == 3)
        for pid in killed:
            os.kill(pid, signal.SIGSTOP)
            # Until each of its threads stands still.
            os.waitpid(pid, os.WUNTRACED)
        layer.send("jobs", {"n": 1})
        assert layer.hub_statistics()["in_hand"] == 1
    finally:
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert layer.receive(["jobs"], PATIENCE) == ("jobs", {"n": 1})


def test_receive_that_a_signal_interrupts_at_any_place_loses_no_message(hub, layers):
    layer, sender = layers(), layers()
    layer.check()
    place = 0
    interrupted = True
    while interrupted:
        place += 1
        sender.send("jobs", {"n": place})
        try:
            interrupted, found = False, receive_interrupted_at(place, layer)
        except TimeLimit:
            interrupted, found = True, layer.receive(["jobs"], PATIENCE)
        assert found == ("jobs", {"n": place}), place
    assert place > 10
    counts = sender.hub_statistics()
    assert (counts["in_hand"], counts["waiting"]) == (0, 0)


class TimeLimit(Exception):
    """As Celery's."""


def receive_interrupted_at(place, layer):
    """Receive, and raise at the n-th place where a signal is acted upon: a function of Python's begins, one of C's
    returns."""
    left = place

    def step(frame, event, argument):
        nonlocal left
        if event in ("call", "c_return") and "layers/ipc" in frame.f_code.co_filename:
            left -= 1
            if not left:
                raise TimeLimit

    gc.disable()  # what ends there, such as another test's layer, may not raise
    sys.setprofile(step)
    try:
        return layer.receive(["jobs"], PATIENCE)
    finally:
        sys.setprofile(None)
        gc.enable()


# Clients that do not read


def test_client_that_does_not_read_is_bounded_and_told_what_it_lost(hubs, layers):
    limit = 512 * 1024
    hub = hubs(buffer_bytes=limit).started()
    slow = RawClient(hub.path)
    slow.ask(wire.SUBSCRIBE, 2, ["group:group"], False)
    layer, sender = layers(), layers()
    inbox = Inbox(layer)
    layer.group_add("group", inbox.name)
    for number in range(300):
        sender.group_send("group", {"n": number, "bytes": bytes(10_000)})
        assert inbox.next()["n"] == number, "the others get all"
    assert f"{limit} bytes wait for it; dropping" in hub.wait_for("does not read")
    got = lost = got_bytes = 0
    while got + lost < 300:
        frame = slow.next()
        if frame[0] == wire.MESSAGE:
            got += 1
            got_bytes += len(frame[2])
        elif frame[0] == wire.LOST:
            lost += frame[1]
    assert lost > 0
    assert got_bytes < limit + 1024 * 1024, "no more than the limit and the system's own buffers"
    assert f"dropped {lost} messages" in hub.wait_for("hub: dropped")
    sender.group_send("group", {"n": 300})
    assert slow.next()[0] == wire.MESSAGE
    slow.close()


def test_messages_lost_by_this_process_are_counted(hubs, layers):
    hub = hubs(buffer_bytes=256 * 1024).started()
    reader, writer = os.pipe()
    waiter, go = os.pipe()

    def be_slow():
        own = IPCLayer(hub.path)
        held = threading.Event()
        first, last = threading.Event(), threading.Event()

        def deliver(delivery):
            if delivery.content["n"] == -1:
                last.set()
            elif not first.is_set():
                first.set()
                held.wait(PATIENCE)  # what no receiver may do: the reader stands still

        name = own.new_channel("reply")
        own.attach(name, deliver)
        own.group_add("group", name)
        os.write(writer, name.encode())
        os.read(waiter, 1)
        held.set()
        os.write(writer, b"x" if last.wait(PATIENCE) else b"-")
        lost = own.statistics()["lost"]
        own.close()
        return lost > 0

    child = fork(be_slow)
    name = os.read(reader, 100).decode()
    sender = layers()
    for number in range(100):
        sender.group_send("group", {"n": number, "bytes": bytes(10_000)})
    hub.wait_for("does not read")
    os.write(go, b"x")
    hub.wait_for("hub: dropped")
    sender.send(name, {"n": -1})
    assert os.read(reader, 1) == b"x"
    assert succeeded(child)
    for descriptor in (reader, writer, waiter, go):
        os.close(descriptor)


def test_batch_is_delivered_with_more_but_for_its_last(tmp_path, layers):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hub.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)
        layer = layers(timeout=PATIENCE)

        def be_a_hub():
            client, _ = listener.accept()
            reader = wire.FrameReader()
            with client:
                while data := client.recv(65536):
                    for frame in reader.feed(data):
                        answer = wire.pack(wire.ANSWER, frame[1], wire.OK, 0)
                        if frame[0] == wire.PING:
                            messages = [layer.codec.encode({"n": number}) for number in range(3)]
                            answer = b"".join(
                                [
                                    wire.pack(wire.MESSAGE, f"inbox:{layer.process}", message_frame(inbox.name, m))
                                    for m in messages
                                ]
                                + [answer]
                            )
                        client.sendall(answer)

        hub = threading.Thread(target=be_a_hub)
        hub.start()
        inbox = Inbox(layer)
        layer.check()
        deliveries = [inbox.queue.get(timeout=PATIENCE) for _ in range(3)]
        layer.close()
        hub.join(PATIENCE)
    assert [(its.content["n"], its.more) for its in deliveries] == [(0, True), (1, True), (2, False)]


# Processes


def test_reply_channels_groups_and_sessions_cross_processes(hub, layers):
    layer = layers()
    inbox = Inbox(layer)

    def other():
        own = IPCLayer(hub.path)
        own.group_add("group", inbox.name)
        own.group_send("group", {"from": "group"})
        own.send(inbox.name, {"from": "channel"})
        own.session_save("key", {"from": "session"}, 60)
        own.close()
        return True

    assert succeeded(fork(other))
    assert inbox.next() == {"from": "group"}
    assert inbox.next() == {"from": "channel"}
    assert layer.session_load("key") == {"from": "session"}


def test_forked_child_is_another_process_and_leaves_the_parents_connection_alone(hub, layers):
    layer = layers()
    inbox = Inbox(layer)
    layer.group_add("group", inbox.name)

    def child():
        before = IPCLayer(hub.path)
        clients = before.hub_statistics()["clients"]
        before.close()
        own = layer.new_channel("reply")
        layer.send(inbox.name, {"from": "child", "own": own, "clients": clients})
        kept = layer.receive([own], PATIENCE)
        layer.close()
        return kept == (own, {"from": "parent"})

    children = [fork(child) for _ in range(3)]
    for _ in children:
        content = inbox.next()
        assert content["own"].partition("!")[0] != inbox.name.partition("!")[0]
        layer.send(content["own"], {"from": "parent"})
    assert succeeded(*children)
    layers().group_send("group", {"text": "still here"})
    assert inbox.next() == {"text": "still here"}
    until(lambda: layer.hub_statistics()["clients"] <= 2)


def test_killed_process_leaves_its_groups(hub, layers):
    ready, told = os.pipe()

    def member():
        own = IPCLayer(hub.path)
        name = own.new_channel("reply")
        own.attach(name, lambda delivery: None)
        own.group_add("group", name)
        os.write(told, b"x")
        threading.Event().wait(PATIENCE)

    pid = fork(member)
    os.read(ready, 1)
    layer = layers()
    assert layer.hub_statistics()["subscriptions"] == 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until(lambda: layer.hub_statistics()["subscriptions"] == 0)
    assert layer.hub_statistics()["inboxes"] == 0
    os.close(ready)
    os.close(told)


def test_short_lived_threads_and_children_share_or_close_their_connections(hub, layers):
    layer = layers(capacity=100_000)
    for _ in range(20):
        threads = [threading.Thread(target=layer.send, args=("queue", {})) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    children = [fork(lambda: layer.send("queue", {}) is None) for _ in range(20)]
    assert succeeded(*children)
    counts = layer.hub_statistics()
    assert counts["pending"] == 1020
    until(lambda: layer.hub_statistics()["clients"] == 1)


def test_layer_that_is_dropped_gives_back_its_thread_and_descriptors(hub):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    layer = IPCLayer(hub.path)
    layer.new_channel("reply")
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    # What an earlier test left may end meanwhile, too.
    until(lambda: threading.active_count() <= threads)
    until(lambda: descriptors() <= before)


def test_close_gives_back_the_thread_while_the_hub_is_away(layers):
    threads = threading.active_count()
    layer = layers(timeout=PATIENCE)
    layer.expect_hub()
    thread, failed = checking(layer)
    until(lambda: threading.active_count() == threads + 2)
    layer.close()
    thread.join(PATIENCE)
    assert failed == ["layer 'ipc' was closed meanwhile; the command was not sent"]
    until(lambda: threading.active_count() == threads)


# Under gevent

GEVENT = """
from gevent import monkey
monkey.patch_all()
import os, sys
import gevent
from gevent.queue import SimpleQueue
from offload.exceptions import LayerUnavailable
from offload.layers.ipc import IPCLayer

path = sys.argv[1]
with gevent.Timeout(20):
    layer, other = IPCLayer(path), IPCLayer(path)
    inbox = SimpleQueue()
    name = layer.new_channel("reply")
    layer.attach(name, lambda delivery: inbox.put(delivery.content))
    {body}
    layer.close()
    other.close()
print("done")
"""


def in_gevent(hub, body):
    indented = "\n    ".join(body.strip().splitlines())
    done = run("-W", "error", "-c", GEVENT.format(body=indented), hub.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_event_loop_may_detach_the_last_member_of_a_group(hub):
    in_gevent(
        hub,
        """
layer.group_add("group", name)
for turn in range(20):
    done = gevent.event.Event()
    gevent.get_hub().loop.run_callback(lambda: (layer.detach(name), done.set()))
    done.wait()
    assert other.hub_statistics()["subscriptions"] == 0
    layer.attach(name, lambda delivery: inbox.put(delivery.content))
    layer.group_add("group", name)
    other.group_send("group", {"turn": turn})
    assert inbox.get() == {"turn": turn}
""",
    )


def test_killed_greenlet_loses_no_message(hub):
    in_gevent(
        hub,
        """
for turn in range(200):
    greenlet = gevent.spawn(layer.receive, ["queue"], None)
    gevent.sleep(0)
    if turn % 2:
        other.send("queue", {"turn": turn})
        greenlet.kill()
        if greenlet.value is None or isinstance(greenlet.value, gevent.GreenletExit):
            assert other.receive(["queue"], 5) == ("queue", {"turn": turn}), turn
        else:
            assert greenlet.value == ("queue", {"turn": turn})
    else:
        greenlet.kill()
counts = other.hub_statistics()
assert (counts["waiting"], counts["in_hand"], counts["pending"]) == (0, 0, 0), counts
""",
    )


def test_child_of_a_gevent_process_leaves_the_parents_connection_alone(hub):
    in_gevent(
        hub,
        """
layer.group_add("group", name)
pids = []
for _ in range(5):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            gevent.idle()  # its loop runs before it uses the layer
            own = layer.new_channel("reply")
            assert own.partition("!")[0] != name.partition("!")[0]
            layer.send(name, {"own": own})
            assert layer.receive([own], 5) == (own, {"from": "parent"})
            code = 0
        finally:
            os._exit(code)
    pids.append(pid)
for _ in pids:
    layer.send(inbox.get()["own"], {"from": "parent"})
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
for turn in range(100):
    other.group_send("group", {"turn": turn})
    assert inbox.get() == {"turn": turn}
""",
    )


def test_greenlets_go_on_with_the_next_hub(hub, hubs):
    follower = hubs()
    follower.wait_for("standing by")
    in_gevent(
        hub,
        f"""
import logging
logging.disable()
layer.group_add("group", name)
errors = []
warm = gevent.event.Event()
def load():
    for turn in range(300):
        if turn == 100:
            warm.set()
        try:
            other.group_send("group", {{"load": 1}})
        except LayerUnavailable as error:
            errors.append(error)
greenlets = [gevent.spawn(load) for _ in range(10)]
warm.wait()
os.kill({hub.process.pid}, 9)
gevent.joinall(greenlets)
assert len(errors) <= 10, errors  # one each at most, for what was under way
while not inbox.empty():
    inbox.get()
other.group_send("group", {{"text": "end"}})
while inbox.get() != {{"text": "end"}}:
    pass
assert layer.statistics()["reconnects"] == 1
""",
    )
