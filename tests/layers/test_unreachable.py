"""``LayerUnreachable`` means that nothing was sent; where that is not certain, it is plain ``LayerUnavailable``."""

import signal
import threading

import pytest

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.ipc import IPCLayer
from offload.layers.redis import RedisLayer
from tests.layers.hubs import PATIENCE, HubProcess
from tests.redis_server import free_port, running_redis, stand_still

SENDERS = 20


@pytest.fixture(params=["ipc", "redis"])
def server(request, tmp_path):
    """What makes layers, and their server's process."""
    if request.param == "ipc":
        hub = HubProcess(tmp_path / "hub.sock").started()
        yield lambda **settings: IPCLayer(str(tmp_path / "hub.sock"), **settings), hub.process
        hub.close()
    else:
        with running_redis(tmp_path) as redis:
            yield lambda **settings: RedisLayer(redis.url, **settings), redis.process


def outcomes(layer):
    """What becomes of one message of each of several senders."""
    found = {}

    def send(number):
        try:
            layer.send("queue", {"number": number})
        except LayerUnavailable as error:
            found[number] = type(error)
        else:
            found[number] = None

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == SENDERS
    return found


def test_what_a_frozen_server_gets_in_the_end_was_not_called_unreachable(server):
    make, process = server
    layer = make(timeout=0.3)
    # The server knows then how to put something into a queue.
    layer.send("queue", {"number": None})
    assert layer.receive(["queue"], PATIENCE) == ("queue", {"number": None})
    stand_still(process.pid)
    try:
        found = outcomes(layer)
    finally:
        process.send_signal(signal.SIGCONT)
    layer.close()
    assert set(found.values()) <= {LayerUnavailable, LayerUnreachable}
    reader = make()
    arrived = set()
    while len(arrived) < SENDERS and (message := reader.receive(["queue"], 0.5)):
        arrived.add(message[1]["number"])
    reader.close()
    assert arrived
    assert arrived <= {number for number, kind in found.items() if kind is LayerUnavailable}


def test_server_that_is_not_there_is_unreachable(tmp_path):
    for layer in (IPCLayer(str(tmp_path / "hub.sock")), RedisLayer(f"redis://127.0.0.1:{free_port()}/0")):
        assert set(outcomes(layer).values()) == {LayerUnreachable}
        layer.close()


def test_redis_that_refuses_is_unreachable(tmp_path):
    with running_redis(tmp_path) as redis:
        layer = RedisLayer(redis.url)
        layer.check()
        redis.run("CONFIG", "SET", "maxmemory", "1")
        assert all(issubclass(kind, LayerUnreachable) for kind in outcomes(layer).values())
        layer.close()
        redis.run("CONFIG", "SET", "maxmemory", "0")
        assert redis.run("EXISTS", "channel:queue") == 0
