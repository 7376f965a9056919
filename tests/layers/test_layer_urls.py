"""Layer addresses."""

import subprocess
import sys
import types

import pytest

from offload.exceptions import ConfigurationError
from offload.layers.addresses.urls import layer_from_url
from offload.layers.memory import MemoryLayer


class Recorded:
    """Stands for a backend that is not under test: keeps what it was built with."""

    extra_settings = {"timeout": float}

    def __init__(self, **arguments):
        self.arguments = arguments


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    for kind, name in (("redis", "RedisLayer"), ("ipc", "IPCLayer")):
        module = types.ModuleType(f"offload.layers.{kind}")
        setattr(module, name, Recorded)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_memory_url_with_settings():
    layer = layer_from_url("memory://?capacity=5&expiry=1.5&prefix=app:&channel_capacity=a.*:7&channel_capacity=b:8")
    assert isinstance(layer, MemoryLayer)
    assert (layer.capacity, layer.expiry, layer.settings.prefix) == (5, 1.5, "app:")
    assert layer.settings.channel_capacity == {"a.*": 7, "b": 8}


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("ipc:", {"path": None, "directory": None}),
        ("ipc:///run/a%20b.sock?capacity=3", {"path": "/run/a b.sock", "directory": None, "capacity": 3}),
        ("redis://localhost", {"hosts": ["redis://localhost"]}),
        (
            "redis://:secret@h:6379/1?expiry=2&timeout=3",
            {"hosts": ["redis://:secret@h:6379/1"], "expiry": 2.0, "timeout": 3.0},
        ),
        ("rediss://h/0", {"hosts": ["rediss://h/0"]}),
        ("redis+unix:///run/redis.sock", {"hosts": ["redis+unix:///run/redis.sock"]}),
        ("redis://a:1, redis://b:2?capacity=4", {"hosts": ["redis://a:1", "redis://b:2"], "capacity": 4}),
        (["redis://a?capacity=4", "rediss://b?capacity=4"], {"hosts": ["redis://a", "rediss://b"], "capacity": 4}),
        ("redis://[::1]:6379/0", {"hosts": ["redis://[::1]:6379/0"]}),
        (
            "redis+sentinel://h1:26379,h2:26379/0?service=m&capacity=4",
            {"hosts": ["redis+sentinel://h1:26379,h2:26379/0?service=m"], "capacity": 4},
        ),
        (
            "redis://a?encryption_keys=new&encryption_keys=old,redis://b",
            {"hosts": ["redis://a", "redis://b"], "encryption_keys": ["new", "old"]},
        ),
        ("redis+cluster://h1,h2", {"hosts": ["redis+cluster://h1,h2"]}),
    ],
)
def test_url_gives_a_backend_its_arguments(url, arguments):
    assert layer_from_url(url).arguments == arguments


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "layer address is empty; an address looks like 'memory://', 'ipc:' or 'redis://host:6379/0'"),
        ("localhost", "layer address 'localhost' has no scheme; did you mean 'redis://localhost'?"),
        ("redi://h", "layer address 'redi://h' has the unknown scheme 'redi'; did you mean 'redis'?"),
        (
            "amqp://u:p@h",
            "layer address '***@h' has an unknown scheme; known are memory, ipc, redis, rediss,"
            " redis+unix, redis+sentinel, redis+cluster, rediss+sentinel, rediss+cluster",
        ),
        (
            "amqp://h",
            "layer address 'amqp://h' has the unknown scheme 'amqp'; known are memory, ipc, redis, rediss,"
            " redis+unix, redis+sentinel, redis+cluster, rediss+sentinel, rediss+cluster",
        ),
        (
            "redis://h?colour=red",
            "layer 'redis' has no such setting as the address has; it has capacity, channel_capacity, encryption_keys,"
            " expiry, group_expiry, max_size, prefix, timeout",
        ),
        (
            "redis://app:sec/ret@h:6379",
            "layer address 'redis://***@h:6379' cannot be read; in a user, a password and a path, write '/' as %2F,"
            " '?' as %3F, '#' as %23, '@' as %40, and '[' as %5B",
        ),
        (
            "redis://app:sec,redis://ret@h:6379",
            "layer addresses 'redis://***@h:6379' have a password for a later one only; write a comma in a password as"
            " %2C, or give the addresses as a list",
        ),
        (
            "redis://h?capacity=many&sentinel_password=secret",
            "layer setting 'capacity' has a wrong value in the address 'redis://h'",
        ),
        ("redis://h?capasity=3", "layer 'redis' has no setting 'capasity'; did you mean 'capacity'?"),
        ("redis://h?timeot=3", "layer 'redis' has no setting 'timeot'; did you mean 'timeout'?"),
        ("redis://h?capacity=many", "layer setting capacity='many' must be a whole number"),
        ("redis://h?expiry=soon", "layer setting expiry='soon' must be a number of seconds"),
        ("redis://h?timeout=x", "layer setting timeout='x' is wrong: could not convert string to float: 'x'"),
        ("redis://h?capacity=1&capacity=2", "layer address 'redis://h' sets 'capacity' twice"),
        (
            "memory://?channel_capacity=5",
            "layer setting channel_capacity='5' must be GLOB:NUMBER, such as 'thumbnails.*:500'",
        ),
        ("memory://?expiry=0", "layer setting expiry=0.0 must be a number of seconds above 0"),
        ("memory://here", "layer address 'memory://here' names a place; the memory layer is 'memory://'"),
        (
            "ipc://run/a.sock",
            "layer address 'ipc://run/a.sock' names a host; a socket's path takes three slashes: 'ipc:///path/to.sock'",
        ),
        ("ipc:///a,ipc:///b", "layer 'ipc' takes one address, not 2; only Redis has shards"),
        ("redis://a,memory://", "layer addresses 'redis://a', 'memory://' name different kinds of layers"),
        (
            ["redis://a?capacity=1", "redis://b?capacity=2"],
            "layer addresses set 'capacity' to 1 and to 2; one layer has one value",
        ),
        (
            ["redis://a?encryption_keys=secret", "redis://b?encryption_keys=other"],
            "layer addresses set 'encryption_keys' to several values; one layer has one value",
        ),
    ],
)
def test_wrong_url_is_one_clear_sentence(url, message):
    with pytest.raises(ConfigurationError) as caught:
        layer_from_url(url)
    assert str(caught.value) == message


def test_redis_url_without_the_redis_package_names_the_remedy():
    program = (
        "import sys\n"
        "sys.modules['redis'] = None\n"  # as if it were not installed
        "from offload.layers.addresses.urls import layer_from_url\n"
        "layer_from_url('redis://h')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert run.stderr.splitlines()[-1] == (
        "offload.exceptions.ConfigurationError: layer 'redis' needs the redis package;"
        " run: pip install 'django-offload[redis]'"
    )


def test_addresses_of_our_own_schemes_look_for_no_installed_layer():
    program = (
        "import sys, offload.cli\n"
        "from offload.layers.addresses.urls import layer_from_url\n"
        "layer_from_url('memory://')\n"
        "assert 'importlib.metadata' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
