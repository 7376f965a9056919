"""Refusals of ``offload send`` and ``offload group-send`` that reach no layer: one line, with the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.settings.conftest import Refused

HELLO = '{"text": "hello"}'


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["send", "bad name", HELLO],
            2,
            "channel name 'bad name' must be letters, digits, '-', '_' and '.',"
            " with at most one '!' or '?', which neither begins nor ends it",
        ),
        (["group-send", "a!b", HELLO], 2, "group name 'a!b' must be one or more letters, digits, '-', '_' and '.'"),
        (["send", "", HELLO], 2, "channel name '' must be letters, digits, '-', '_' and '.',"
         " with at most one '!' or '?', which neither begins nor ends it"),
        (["group-send", "x" * 100, HELLO], 2, f"group name '{'x' * 40}'... has 100 characters; at most 99 are allowed"),
        (["send", "jobs"], 2, "the following arguments are required: JSON"),
        (["send"], 2, "the following arguments are required: CHANNEL, JSON"),
        (["group-send"], 2, "the following arguments are required: GROUP, JSON"),
        (["send", "jobs", HELLO, "more"], 2, "unknown argument 'more'; 'offload send --help' lists all"),
        (["send", "--lyer", "ipc:", "jobs", HELLO], 2, "unknown option '--lyer'; did you mean --layer?"),
        (["send", "jobs", "hello"], 2, "the content is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (["send", "jobs", ""], 2, "the content is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (["group-send", "room", "[1]"], 2, 'the content is a JSON list; write an object: {"text": "hello"}'),
        (["send", "jobs", '"hello"'], 2, 'the content is a JSON str; write an object: {"text": "hello"}'),
        (["send", "jobs", os.fsdecode(b'{"text": "\xff"}')], 2, "the content is not UTF-8"),
        (["send", "jobs", "[" * 100_000], 2, "the content is nested too deeply"),
        (["group-send", "room", "[" * 60_000 + "]" * 60_000], 2, "the content is nested too deeply"),
        (
            ["send", "jobs", '{"a":' * 101 + "1" + "}" * 101],
            1,
            "content is nested more than 100 levels deep",
        ),
        (
            ["group-send", "--layer", "memory://", "room", HELLO],
            1,
            "the layer 'memory' lives in the memory of this process, so the message reached nobody; "
            "name the server's with --layer or OFFLOAD_LAYER",
        ),
        (["send", "--layer", "", "jobs", HELLO], 2,
         "layer address is empty; an address looks like 'memory://', 'ipc:' or 'redis://host:6379/0'"),
        (["send", "--layer", "localhost:6379", "jobs", HELLO], 2,
         "layer address 'localhost:6379' has the unknown scheme 'localhost';"
         " known are memory, ipc, redis, rediss, redis+unix, redis+sentinel, redis+cluster,"
         " rediss+sentinel, rediss+cluster"),
        (["send", "--layer", "ipc:?capcity=3", "jobs", HELLO], 2,
         "layer 'ipc' has no setting 'capcity'; did you mean 'capacity'?"),
    ],
)  # fmt: skip
def test_mistake_in_what_is_sent(
    refused: Refused, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    assert refused(*arguments, OFFLOAD_RUNTIME_DIR=str(tmp_path / "run")) == (status, message)
