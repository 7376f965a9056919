"""Complaints about addresses and settings: whatever these look like, none shows a password, and all are of one kind."""

import functools
import traceback
import types
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_offload import conf
from offload.exceptions import ConfigurationError
from offload.layers.addresses.urls import layer_from_url
from offload.layers.redis import RedisLayer

MARK = "Zq7w"
"""In every piece of a secret; in no word of ours."""

SIGNS = ["/", "//", "://", ":/", "?", "#", "@", "[", "]", "[::1]", ",", "&", "=", ":", "%", "%4", "%2F", "\u2100", "+"]
ARGUMENTS = ["memory:", "@h:1?", ":6379/0?", "&capacity=", "&prefix=", "&nothing=", "&channel_capacity="]
PIECES = st.text(st.characters(exclude_categories=("C", "Z")), max_size=4) | st.sampled_from([" ", *SIGNS, *ARGUMENTS])
SECRETS = st.lists(PIECES, max_size=5).map(lambda pieces: MARK + "".join(piece + MARK for piece in pieces))
REDIS = "redis:// rediss:// redis+unix:// redis+sentinel:// rediss+sentinel:// redis+cluster:// redis:/ redis: REDIS://"
SCHEMES = st.sampled_from(["", *REDIS.split(" "), "ipc:", "ipc://", "memory://", "redi://", "amqp://"])
WHERE = "h h:6379/0 h:0 h:99999 h:port h/zero h1,h2:26379/0 [::1]:6379 [::1 /run/a.sock h#x h,redis://h2"
WITH_ARGUMENTS = "h:6379/0?service=m h?capacity=7 h?capacity=many h?prefix=a@b h?nothing=7"
PLACES = st.sampled_from(["", *WHERE.split(" "), *WITH_ARGUMENTS.split(" ")])
CREDENTIALS = st.sampled_from(["{}@", ":{}@", "user:{}@", "{}:word@", ":%41{}@", "user:{}@h@"])
OTHERS = ["sentinel_pasword={}", "password={}", "encryption_key={}", "capacity=1&password={}", "ssl_cert_reqs=x&{}"]
SECRET = ["sentinel_password={}", "service=m&sentinel_password={}", "encryption_keys={}", "encryption_keys={}&db=x"]
QUERIES = st.sampled_from(["{}", *OTHERS, *SECRET])


@st.composite
def addresses(draw):
    secret, scheme, place = draw(SECRETS), draw(SCHEMES), draw(PLACES)
    if draw(st.booleans()):
        return scheme + draw(CREDENTIALS).format(secret) + place
    return f"{scheme}{place}{'&' if '?' in place else '?'}{draw(QUERIES).format(secret)}"


def complaint(make):
    """What it complains of, if it does, as a traceback shows it; and whatever else is raised, comes through."""
    try:
        make()
    except ConfigurationError as error:
        return "".join(traceback.format_exception_only(error)) + "".join(map(str, chained(error)))
    return ""


def chained(error):
    while error := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        yield error


PATIENT = settings(deadline=None, max_examples=400, derandomize=True)


@PATIENT
@given(addresses())
@example(f"redis://app:{MARK}/pw@db:6379/0")
@example(f"redis://app:{MARK}#pw@db:6379/0")
@example(f"redis://app:{MARK}?{MARK}@db:6379/0")
@example(f"redis://app:{MARK}[pw@db:6379/0")
@example(f"redis://app:{MARK},redis://{MARK}@db:6379/0")
@example(f"redis+unix://app:{MARK}/{MARK}@/run/a.sock")
@example(f"app:{MARK}@db:6379")
@example(f"{MARK}@db")
def test_no_complaint_about_an_address_shows_a_secret(address):
    assert MARK not in complaint(lambda: layer_from_url(address))
    assert MARK not in complaint(lambda: layer_from_url([address, "redis://other:secret@h:1/0"]))
    assert MARK not in complaint(lambda: RedisLayer(hosts=address))
    assert MARK not in complaint(lambda: RedisLayer(hosts=["redis://h", address]))


@PATIENT
@given(SECRETS, SECRETS)
@example(MARK, MARK + "2")
def test_no_complaint_about_a_secret_setting_shows_it(secret, other):
    for name in ("sentinel_password", "encryption_keys"):
        for values in ((secret, other), (quote(secret, safe=""), quote(other, safe=""))):
            urls = [f"redis+sentinel://h{n}/0?service=m&{name}={value}" for n, value in enumerate(values)]
            assert MARK not in complaint(functools.partial(layer_from_url, urls))
    for wrong in (secret, [secret, 7], [secret, ""], {secret: 1}, {secret}):
        assert MARK not in complaint(functools.partial(RedisLayer, encryption_keys=wrong))
    assert MARK not in complaint(lambda: RedisLayer("redis://h", sentinel_password=secret))


@PATIENT
@given(SECRETS, addresses())
@example(MARK, f"redis://:{MARK}@h")
def test_no_complaint_about_hosts_of_a_wrong_type_shows_a_secret(secret, address):
    for host in (
        {"host": "db", "port": 6379, "password": secret},
        {"address": address},
        {address},
        [address, 6379, "more"],
        address.encode("utf-8"),
        (address, 6379),
        (address, True),
        (f"{secret}@h", 6379),
    ):
        assert MARK not in complaint(functools.partial(RedisLayer, hosts=[host]))
        assert MARK not in complaint(functools.partial(RedisLayer, hosts=host))


@PATIENT
@given(addresses())
@example(f"redis://:{MARK}@h")
@example(f"ipc://[{MARK}@h")
def test_no_complaint_about_channel_layers_shows_a_secret(address):
    redis = "offload.layers.redis.RedisLayer"
    for layers in (
        address,
        [address],
        {"default": address},
        {"default": [address]},
        {"default": {"URL": address}},
        {"default": {"URL": [address, None]}},
        {"default": {"URL": {"address": address}}},
        {"default": {"URL": address, "ROUTING": {"address": address}}},
        {"default": {"BACKEND": address}},
        {"default": {"BACKEND": [address]}},
        {"default": {"BACKEND": redis, "CONFIG": [address]}},
        {"default": {"BACKEND": redis, "CONFIG": {"hosts": [{"address": address}]}}},
        {"default": {"BACKEND": redis, "CONFIG": {"hosts": [address]}}},
        {"default": {"BACKEND": redis, "HOST": address}},
    ):
        with mock.patch.object(conf, "settings", types.SimpleNamespace(CHANNEL_LAYERS=layers)):
            assert MARK not in complaint(functools.partial(conf.build_layer, "default"))
            assert MARK not in str(conf.problems())


@pytest.mark.parametrize("host", ["redis://h:0", "rediss://h:0/0", "redis+cluster://h1,h2:0", ("h", 0), ("h", 65_536)])
def test_port_that_no_server_has_is_a_complaint(host):
    with pytest.raises(ConfigurationError, match=r"wrong (host or port in 'h2?:0'|pair of host and port)"):
        RedisLayer(hosts=[host])
