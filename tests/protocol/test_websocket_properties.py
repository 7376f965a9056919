"""Properties of the frame reader, for any messages, cuts and damage. `make fuzz` looks further."""

from __future__ import annotations

import contextlib
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from offload.protocol.websocket.connection import Close, Event, Failure, Ping, Pong
from offload.protocol.websocket.deflate import negotiate
from tests.protocol.frames import PING, PONG, agreement, check_not_laxer, close, codes, frame, message, read, theirs

EXAMPLES = int(os.environ.get("OFFLOAD_TEST_EXAMPLES", "150"))
"""Set it to some 100,000 for the full size."""
PLAIN = agreement()

messages = st.one_of(st.text(max_size=300), st.binary(max_size=300), st.text(alphabet="aé€😀", max_size=70_000))
sizes = st.lists(st.integers(0, 200), max_size=5)
controls = st.one_of(
    st.binary(max_size=125).map(lambda data: (frame(PING, data), Ping(data))),
    st.binary(max_size=125).map(lambda data: (frame(PONG, data), Pong(data))),
)


@st.composite
def conversations(draw: st.DrawFn, compresses: bool) -> tuple[bytes, list[Event]]:
    """A stream of correct frames, and what arrives of it."""
    stream, events = b"", []
    for payload in draw(st.lists(messages, max_size=4)):
        compressed = compresses and draw(st.booleans())
        for part in message(payload, draw(sizes), compressed):
            stream += part
            if draw(st.booleans()):
                control, event = draw(controls)
                if part[0] & 0x80:
                    # The message comes first: this was its last frame.
                    events.append(payload)
                    payload = None  # type: ignore[assignment]
                stream += control
                events.append(event)
        if payload is not None:
            events.append(payload)
    if draw(st.booleans()):
        code, reason = draw(st.sampled_from([1000, 1001, 3000, 4999])), draw(st.text(max_size=30))
        stream += close(code, reason.encode())
        events.append(Close(code, reason))
    return stream, events


@given(st.data(), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_correct_frames_arrive_the_same_however_they_are_cut(data: st.DataObject, compresses: bool) -> None:
    stream, events = data.draw(conversations(compresses))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    more = {"extension": PLAIN} if compresses else {}
    assert read(stream, cuts, **more) == events
    assert read(stream, cuts, is_lazy=True, **more) == events
    assert theirs(stream, compresses=compresses) == events


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_damaged_frames_are_refused_as_the_other_library_does(data: st.DataObject) -> None:
    stream, _ = data.draw(conversations(False))
    damaged = bytearray(stream + frame(PING) * 30)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(damaged)
    check_not_laxer(whole, read(whole, data.draw(st.lists(st.integers(0, len(whole)), max_size=9))), theirs(whole))


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_damage_never_gets_past_a_close_code(data: st.DataObject) -> None:
    stream, _ = data.draw(conversations(True))
    damaged = bytearray(stream or b"\x00")
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(damaged)
    events = read(whole, extension=PLAIN, max_size=100_000)
    check_events(events)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=9))
    assert codes(read(whole, cuts, extension=PLAIN, max_size=100_000)) == codes(events)


@given(st.binary(max_size=500), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_bytes_give_events_or_a_close_code(stream: bytes, compresses: bool) -> None:
    check_events(read(stream, extension=PLAIN if compresses else None))


def check_events(events: list[Event]) -> None:
    """Nothing follows an end, and an end has a code that may be sent."""
    for event in events[:-1]:
        assert not isinstance(event, (Close, Failure))
    for event in events[-1:]:
        if isinstance(event, Failure):
            assert event.code in (1002, 1007, 1008, 1009)
            assert event.reason


@given(st.binary(max_size=60), st.text(alphabet='permsag-dflt;=," \\0189_wbcn', max_size=60))
@settings(max_examples=EXAMPLES, deadline=None)
def test_any_offer_is_answered_or_an_error(random: bytes, similar: str) -> None:
    for value in (random, similar.encode(), b"permessage-deflate" + similar.encode()):
        with contextlib.suppress(ValueError):
            negotiate([value])
