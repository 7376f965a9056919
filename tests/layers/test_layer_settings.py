"""Settings that all layers share."""

import pytest

from offload.exceptions import ConfigurationError
from offload.layers.memory import MemoryLayer
from offload.layers.words.settings import LayerSettings


def test_capacity_of_takes_the_first_glob_that_matches():
    settings = LayerSettings(capacity=9, channel_capacity={"a.*": 1, "a*": 2, "?": 3})
    assert [settings.capacity_of(name) for name in ("a.b", "ab", "x", "xy")] == [1, 2, 3, 9]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"expiry": 0}, "layer setting expiry=0 must be a number of seconds above 0"),
        ({"group_expiry": "1"}, "layer setting group_expiry='1' must be a number of seconds above 0"),
        ({"expiry": float("nan")}, "layer setting expiry=nan must be a number of seconds above 0"),
        ({"capacity": 0}, "layer setting capacity=0 must be a whole number, 1 or more"),
        ({"capacity": True}, "layer setting capacity=True must be a whole number, 1 or more"),
        ({"max_size": 1.5}, "layer setting max_size=1.5 must be a whole number, 1 or more"),
        ({"prefix": "a b"}, "layer setting prefix='a b' must be at most 100 letters, digits and '-_.:/@'"),
        ({"channel_capacity": {"a": 0}}, "layer setting channel_capacity['a']=0 must be a whole number, 1 or more"),
        *(
            (
                {"encryption_keys": keys},
                "layer setting encryption_keys must be a list of strings of 20 or more characters, the newest first",
            )
            for keys in ("one text that is long enough", ["too short"], [b"bytes that are long enough"], 7)
        ),
        ({"capasity": 3}, "layer 'memory' has no setting 'capasity'; did you mean 'capacity'?"),
        (
            {"zzz": 3},
            "layer 'memory' has no setting 'zzz';"
            " it has capacity, channel_capacity, encryption_keys, expiry, group_expiry, max_size, prefix",
        ),
    ],
)
def test_wrong_setting_is_one_clear_sentence(setting, message):
    with pytest.raises(ConfigurationError) as caught:
        MemoryLayer(**setting)
    assert str(caught.value) == message
