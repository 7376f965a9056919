"""What the reference page of layers says is true: its commands run, its tables and its code are the layer's."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.addresses.urls import SCHEMES
from offload.layers.redis import RedisLayer
from offload.layers.words.settings import SETTING_NAMES
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import shared_redis_server  # noqa: F401  # a fixture

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "layers.md").read_text()


def command(server, containing):
    """Run a command line of the page on a server of the tests."""
    (line,) = re.findall(rf"^    (redis-cli .*{re.escape(containing)}.*)$", PAGE, re.MULTILINE)
    program, *arguments = shlex.split(line)
    done = subprocess.run(
        [program, "-p", str(server.port), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def test_page_names_every_setting_and_every_scheme():
    settings = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", settings, re.MULTILINE))))
    assert named == {*SETTING_NAMES, *RedisLayer.extra_settings}
    assert set(re.findall(r"^\| `([a-z+]+):", PAGE, re.MULTILINE)) == set(SCHEMES)


def test_commands_of_the_page_reach_a_group_and_a_channel(shared_redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(shared_redis_server.url)
    receiver = joined(layer, "news")
    assert command(shared_redis_server, "PUBLISH group:news '") == "1"
    assert receiver.next() == {"text": "hello"}
    assert command(shared_redis_server, "RPUSH") == "1"
    assert layer.receive(["thumbnails.generate"], 0) == ("thumbnails.generate", {"image": 7})


def test_user_with_the_rights_of_the_page_may_do_all_and_no_more(shared_redis_server, redis_layers):  # noqa: F811
    assert command(shared_redis_server, "ACL SETUSER") == "OK"
    url = f"redis://site:password@127.0.0.1:{shared_redis_server.port}"
    layer = redis_layers(url, prefix="site:")
    layer.check()
    receiver = joined(layer, "news")
    layer.group_add("news", "queue")
    layer.group_send("news", {"n": 1})
    assert receiver.next() == {"n": 1}
    assert layer.receive(["queue"], 1) == ("queue", {"n": 1})
    assert layer.receive(["queue"], 0.01) is None
    layer.group_discard("news", "queue")
    layer.session_save("key", {"n": 1}, 60)
    assert layer.session_load("key") == {"n": 1}
    layer.session_delete("key")
    layer.send("queue", {"n": 1})
    layer.flush()
    assert layer.receive(["queue"], 0) is None
    assert layer.statistics()["lost"] == 0
    with pytest.raises(LayerUnavailable):
        redis_layers(url, prefix="other:").send("queue", {})


def test_place_of_a_key_is_as_the_page_computes_it():
    (code,) = re.findall(r"^```python\n(from hashlib.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    page = {}
    exec(code, page)
    hosts = [f"redis://10.0.0.{number}:6379/0" for number in range(1, 6)]
    ring = RedisLayer(hosts).backend.ring
    for number in range(200):
        key = f"group:name-{number}"
        assert ring.parts([key])[0][0].shown == page["shard_of"](key, hosts)
